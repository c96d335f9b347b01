"""The tables of token classes: their numbers are those of scikit-learn, over odd cases."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from tbtrainer.panels import PanelBatch
from tbtrainer.panels import token_classes as module
from tbtrainer.panels.token_classes import TokenClasses
from tbtrainer.panels.totals import Totals
from tbtrainer.records import Text
from tests.panel_evaluations import batch, drawn, evaluation, on_meta

POS = ["NOUN", "VERB", "ADJ"]
BIO = ["O", "B-a", "I-a", "B-b", "I-b"]
NAN = float("nan")


def tokens(classes: int, number: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, some of which are -100, and predictions."""
    generator = torch.Generator().manual_seed(seed)
    labels, other = torch.randint(classes, (2, number, length), generator=generator)
    chance = torch.rand(2, number, length, generator=generator)
    predictions = torch.where(chance[0] < 0.7, labels, other)
    logits = torch.nn.functional.one_hot(predictions, classes).float()
    return logits, torch.where(chance[1] < 0.2, -100, labels), predictions


def given(logits: Tensor, labels: Tensor) -> PanelBatch:
    return batch(logits, labels, input_ids=torch.ones_like(labels))


def card(names: list[str], *batches: PanelBatch, **changes: Any) -> str:
    config = {"id2label": dict(enumerate(names)), **changes}
    (record,) = drawn(TokenClasses(), batches, **config)
    assert isinstance(record, Text)
    return record.text


def rows_of(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has a name."""
    part = text[text.index(f"| {first} |") :].split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


def expected(
    labels: Tensor, predictions: Tensor, classes: list[int], average: str | None = None
) -> list[list[str]]:
    counted = labels >= 0
    scores = precision_recall_fscore_support(
        labels[counted], predictions[counted], labels=classes, average=average, zero_division=np.nan
    )
    columns = [np.atleast_1d(column) for column in scores[:3]]
    return [
        ["–" if np.isnan(score) else f"{score:.3f}" for score in row]
        for row in np.stack(columns, axis=1)
    ]


@pytest.mark.parametrize("number, length", [(30, 20), (1, 2)])
def test_tokens_are_scored_as_by_scikit_learn(number: int, length: int) -> None:
    logits, labels, predictions = tokens(3, number, length)
    rows = rows_of(card(POS, given(logits, labels)), "class")
    scores = dict(zip(POS, expected(labels, predictions, [0, 1, 2]), strict=True))
    # A class that neither occurs nor is predicted has no row.
    expected_rows = {name: row for name, row in scores.items() if row != ["–"] * 3}
    assert {name: rows[name][:3] for name in rows if name in POS} == expected_rows
    assert rows["**micro average**"][:3] == expected(labels, predictions, [0, 1, 2], "micro")[0]


def test_the_outside_class_is_last_and_not_averaged() -> None:
    logits, labels, predictions = tokens(5, 30, 20)
    rows = rows_of(card(BIO, given(logits, labels)), "class")
    assert list(rows)[-1] == "O (outside, not averaged)"
    assert rows["O (outside, not averaged)"][:3] == expected(labels, predictions, [0])[0]
    inside = expected(labels, predictions, [1, 2, 3, 4], "micro")[0]
    assert rows["**micro average**"] == [*inside, str(int((labels > 0).sum()))]


def test_the_worst_class_is_first() -> None:
    logits, labels, _ = tokens(5, 30, 20)
    rows = rows_of(card(BIO, given(logits, labels)), "class")
    scores = [float(row[2]) for name, row in rows.items() if name in BIO]
    assert len(scores) == 4 and scores == sorted(scores)


def test_batches_of_different_lengths_are_added_up() -> None:
    logits, labels, _ = tokens(5, 30, 20)
    split = [
        given(logits[:20, :10], labels[:20, :10]),
        given(logits[:20, 10:], labels[:20, 10:]),
        given(logits[20:], labels[20:]),
    ]
    whole = rows_of(card(BIO, given(logits, labels)), "class")
    assert rows_of(card(BIO, *split), "class") == whole


def test_spans_are_scored_above_the_tokens() -> None:
    labels = torch.tensor([[1, 2, 0, 3, 0], [1, -100, 2, 0, 0]])
    predictions = torch.tensor([[1, 2, 0, 1, 0], [1, 4, 2, 2, 0]])
    text = card(BIO, given(torch.eye(5)[predictions], labels))
    assert text.index("**Spans**") < text.index("**Tokens**")
    # Of a: one of two is right, and three are predicted. The span of b is taken for a.
    assert rows_of(text, "type") == {
        "**micro average**": ["0.333", "0.333", "0.333", "3"],
        "b": ["–", "0.000", "0.000", "1"],
        "a": ["0.333", "0.500", "0.400", "2"],
    }


def test_names_without_spans_have_no_table_of_them() -> None:
    logits, labels, _ = tokens(3, 4, 5)
    assert "Spans" not in card(POS, given(logits, labels))


def test_a_class_that_is_absent_has_no_row() -> None:
    labels = torch.tensor([[0, 0, 1]])
    text = card(POS, given(torch.eye(3)[torch.tensor([[0, 1, 0]])], labels))
    assert list(rows_of(text, "class")) == ["**micro average**", "VERB", "NOUN"]
    assert "1 of 3 neither occur nor are predicted." in text


def test_a_class_that_is_only_predicted_has_no_recall() -> None:
    text = card(POS, given(torch.eye(3)[torch.tensor([[0, 2]])], torch.tensor([[0, 0]])))
    assert rows_of(text, "class")["ADJ"] == ["0.000", "–", "0.000", "0"]


def test_no_label_or_no_finite_logit_is_not_counted() -> None:
    logits = torch.eye(3)[torch.tensor([[0, 1, 2]])]
    logits[0, 1] = NAN
    text = card(POS, given(logits, torch.tensor([[0, 0, -100]])))
    assert text.startswith("1 token of 1 example.")
    assert rows_of(text, "class")["NOUN"] == ["1.000", "1.000", "1.000", "1"]


def test_nothing_is_shown_without_a_labelled_token() -> None:
    logits, labels = torch.zeros(2, 4, 5), torch.full((2, 4), -100)
    names = dict(enumerate(BIO))
    assert drawn(TokenClasses(), [given(logits, labels)], id2label=names) == []


def test_of_many_classes_the_worst_are_shown() -> None:
    names = [f"tag {index}" for index in range(50)]
    logits, labels, _ = tokens(50, 30, 20)
    text = card(names, given(logits, labels))
    assert len(rows_of(text, "class")) == 1 + module.MOST_ROWS
    assert text.endswith("20 better ones are not shown.")


def test_odd_names_stay_in_their_cells() -> None:
    names = ["O", "B-a|b", "I-c\nd"]
    labels = torch.tensor([[1, 2, 0]])
    text = card(names, given(torch.eye(3)[labels], labels))
    assert {"a&#124;b", "c d"} <= set(rows_of(text, "type"))
    assert {"B-a&#124;b", "I-c d"} <= set(rows_of(text, "class"))


def test_the_most_classes_fit_into_the_totals() -> None:
    for classes in (module.MOST_CLASSES, module.MOST_SPAN_CLASSES):
        names = {index: f"B-{index}" for index in range(classes)}
        one = given(torch.zeros(1, 2, classes), torch.zeros(1, 2, dtype=torch.int64))
        kept = TokenClasses().batch(one, evaluation(one, id2label=names))
        Totals().add(kept.totals)


def test_a_batch_is_counted_without_looking_at_its_values() -> None:
    logits, labels, _ = tokens(5, 4, 6)
    one = on_meta(given(logits, labels))
    assert TokenClasses().batch(one, evaluation(one, id2label=dict(enumerate(BIO)))).totals


def test_each_dataset_has_a_card() -> None:
    logits, labels, _ = tokens(3, 4, 5)
    names = dict(enumerate(POS))
    (record,) = drawn(TokenClasses(), [given(logits, labels)], id2label=names, dataset="a")
    assert isinstance(record, Text) and record.tag == "eval/a/token_classes"
