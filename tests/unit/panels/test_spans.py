"""Spans of tokens, against the rules of seqeval in plain Python."""

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tbtrainer.panels.spans import SpanScheme, span_counts

Entity = tuple[int, str, int, int]
SCHEMES = {
    "BIO": ["O", "B-a", "I-a", "B-b", "I-b"],
    "IOBES": ["B-a", "I-a", "E-a", "S-a", "O", "I-b"],
    "no type": ["I", "O", "B"],
    "type with dashes": ["O", "B-a-b", "I-a-b", "I-b"],
    "no outside class": ["B-a", "I-a", "B-b"],
}


def entities(sequence: int, tags: list[str]) -> list[Entity]:
    """The entities of `seqeval.metrics.sequence_labeling.get_entities` (1.2.2)."""
    found, begin, last, last_kind = [], 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_"
        is_other = last_kind != kind
        if last in "ES" or (last in "BI" and letter in "BSO") or (last != "O" and is_other):
            found.append((sequence, last_kind, begin, place - 1))
        starts = letter in "BS" or (last in "ESO" and letter in "EI")
        if starts or (letter != "O" and is_other):
            begin = place
        last, last_kind = letter, kind
    return found


def tagged(classes: NDArray[np.int64], counted: NDArray[np.bool_], names: list[str]) -> set[Entity]:
    rows = [[names[i] for i in row[kept]] for row, kept in zip(classes, counted, strict=True)]
    return {entity for number, row in enumerate(rows) for entity in entities(number, row)}


@pytest.mark.parametrize("names", SCHEMES.values(), ids=SCHEMES)
def test_spans_are_those_of_seqeval(names: list[str]) -> None:
    scheme = SpanScheme.of(names)
    assert scheme is not None
    random = np.random.default_rng(len(names))
    for _ in range(100):
        shape = tuple(random.integers(1, 12, 2))
        labels, other = random.integers(0, len(names), (2, *shape))
        predictions = np.where(random.random(shape) < 0.6, labels, other)
        counted = random.random(shape) < 0.8
        given = (torch.from_numpy(array) for array in (labels, predictions, counted))
        counts = span_counts(*given, scheme)
        true, found = (tagged(array, counted, names) for array in (labels, predictions))
        for name, spans in (
            ("spans", true),
            ("predicted_spans", found),
            ("correct_spans", true & found),
        ):
            kinds = Counter(kind for _, kind, _, _ in spans)
            assert counts[name].tolist() == [kinds[kind] for kind in scheme.types]


def test_the_example_of_seqeval_is_counted_alike() -> None:
    names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    scheme = SpanScheme.of(names)
    assert scheme is not None and scheme.types == ("MISC", "PER")
    labels = torch.tensor([[0, 0, 0, 1, 2, 2, 0], [3, 4, 0, 0, 0, 0, 0]])
    predictions = torch.tensor([[0, 0, 1, 2, 2, 2, 0], [3, 4, 0, 0, 0, 0, 0]])
    counts = span_counts(labels, predictions, torch.ones_like(labels).bool(), scheme)
    assert {name: count.tolist() for name, count in counts.items()} == {
        "spans": [1, 1],
        "predicted_spans": [1, 1],
        "correct_spans": [0, 1],
    }


def test_a_token_without_label_does_not_end_a_span() -> None:
    scheme = SpanScheme.of(["O", "B-a", "I-a"])
    assert scheme is not None
    labels = torch.tensor([[1, 0, 2, 0]])
    counted = torch.tensor([[True, False, True, True]])
    counts = span_counts(labels, torch.tensor([[1, 1, 2, 0]]), counted, scheme)
    assert [int(count) for count in counts.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    "names",
    [
        ["NOUN", "VERB"],
        ["O", "place", "person"],
        ["O", "B-place", "M-place"],
        ["E", "S", "O"],
        ["0", "1"],
        ["LABEL_0", "LABEL_1"],
    ],
)
def test_other_names_describe_no_spans(names: list[str]) -> None:
    assert SpanScheme.of(names) is None


def test_spans_are_counted_without_looking_at_values() -> None:
    scheme = SpanScheme.of(["O", "B-a", "I-a"])
    assert scheme is not None
    tokens = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    counts = span_counts(tokens, tokens, tokens.bool(), scheme)
    assert all(count.is_meta and count.shape == (1,) for count in counts.values())
