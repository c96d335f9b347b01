"""The perplexity of each third is that of its tokens."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from tbtrainer.panels.panel import KeptOfAllRanks
from tbtrainer.panels.perplexity_by_length import PerplexityByLength, thirds_of
from tests.language_models import batch_of, bert, evaluation_of, gpt2, predicted


def drawn(loss: list[float], tokens: list[int], length: list[int] | None = None) -> list[list[str]]:
    """The rows of the table."""
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7]]))
    columns = {"loss": loss, "tokens": tokens, "length": length or tokens}
    examples = {name: np.array(column) for name, column in columns.items()}
    kept = KeptOfAllRanks(examples, None, {}, 99)
    records = PerplexityByLength().draw(kept, evaluation_of(model, batch))
    lines = [line for record in records for line in record.text.splitlines()[4:]]
    return [re.findall(r"[^| ][^|]*[^| ]|[^| ]", line) for line in lines]


def test_each_third_has_the_perplexity_of_its_tokens() -> None:
    rows = drawn(loss=[2.0, 3.0, 30.0, 40.0, 9.0, 8.0], tokens=[2, 3, 10, 20, 5, 4])
    assert rows == [
        ["2 – 3", "2", "5", "1.0000", f"{np.e:.2f}"],
        ["4 – 5", "2", "9", f"{17 / 9:.4f}", f"{np.exp(17 / 9):.2f}"],
        ["10 – 20", "2", "30", f"{70 / 30:.4f}", f"{np.exp(70 / 30):.2f}"],
    ]


def test_an_example_without_tokens_is_left_out() -> None:
    assert [row[1] for row in drawn([0.0, 2.0, 3.0], [0, 2, 3])] == ["1", "1"]


def test_a_large_perplexity_is_no_error() -> None:
    assert [row[-1] for row in drawn([4000.0, 60.0], [2, 3])] == ["inf", "4.85e+08"]


@pytest.mark.parametrize("tokens", [[], [0, 0], [7, 7, 7, 7]])
def test_nothing_is_drawn_of_equal_lengths(tokens: list[int]) -> None:
    assert drawn([1.0] * len(tokens), tokens) == []


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([1, 2, 3], [1, 1, 1]), ([1, 2], [1, 1]), ([4, 4, 4, 5], [3, 1]), ([1, 9, 9, 9, 9], [5])],
)
def test_equal_lengths_are_in_the_same_third(lengths: list[int], sizes: list[int]) -> None:
    thirds = thirds_of(np.array(lengths, dtype=np.float64))
    assert [int(third.sum()) for third in thirds] == sizes
    assert np.sum(thirds, axis=0).tolist() == [1] * len(lengths)


def kept_of(make: Any, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    model = make()
    batch = predicted(model, inputs)
    return dict(PerplexityByLength().batch(batch, evaluation_of(model, batch)).examples)


def test_a_causal_sequence_is_as_long_as_its_labels() -> None:
    inputs = batch_of([[5, 6, 7, 8, 9], [5, 6, 7]])
    inputs["labels"][0, :2] = -100
    assert kept_of(gpt2, inputs)["length"].tolist() == [3, 2]


def test_a_masked_sequence_is_as_long_as_its_text() -> None:
    inputs = batch_of([[5, 6, 7, 8, 9], [5, 6, 7]])
    inputs["labels"][:, 1:] = -100
    kept = kept_of(bert, inputs)
    assert kept["length"].tolist() == [5, 3]
    assert kept["tokens"].tolist() == [1, 1]
