"""The table of a multi-label classification, compared with scikit-learn."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from tbtrainer.panels.label_f1 import LabelF1
from tbtrainer.records import Text
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, split

NAN = float("nan")


def examples(number: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    true = (torch.rand(number, labels, generator=generator) < 0.3).float()
    return torch.randn(number, labels, generator=generator) + true, true


def card(logits: torch.Tensor, labels: torch.Tensor, **config: Any) -> str:
    (record,) = drawn(LabelF1(), list(split(logits, labels, 64)), **config)
    assert isinstance(record, Text) and record.tag == "eval/label_f1"
    return record.text


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {name: scores for name, *scores in lines[2:]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_scores_are_those_of_scikit_learn(dtype: torch.dtype) -> None:
    logits, labels = examples(150, 4)
    rows = rows_of(card(logits, labels.to(dtype)))
    true, predicted = labels.numpy(), (logits > 0).numpy()
    for index in range(4):
        scores = [f(true[:, index], predicted[:, index]) for f in SCORES]
        assert rows[str(index)][:3] == [f"{score:.3f}" for score in scores]
        assert rows[str(index)][3] == f"{true[:, index].sum():.0f}"


SCORES = (precision_score, recall_score, f1_score)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_averages_are_those_of_scikit_learn(average: str) -> None:
    logits, labels = examples(150, 4)
    labels[:, 1], logits[:, 1] = 0, -1  # Nobody has it, and it is never predicted.
    labels[:, 2] = 0
    rows = rows_of(card(logits, labels))
    scores = [
        f(labels.numpy(), (logits > 0).numpy(), average=average, zero_division=np.nan)
        for f in SCORES
    ]
    assert rows[f"**{average} average**"][:3] == [f"{score:.3f}" for score in scores]
    assert rows["1"] == ["–", "–", "–", "0"]


def test_the_worst_label_is_first_and_an_undefined_one_last() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    text = card(logits, labels, id2label={0: "good", 1: "bad", 2: "none"})
    assert list(rows_of(text))[2:] == ["bad", "good", "none"]


def test_of_many_labels_the_worst_are_shown() -> None:
    text = card(*examples(150, 50))
    assert text.startswith("The worst 30 of 50 labels at the threshold 0.5, 150 examples:")
    assert len(rows_of(text)) == 32


@pytest.mark.parametrize("unknown", [-100.0, NAN])
def test_unknown_labels_are_left_out(unknown: float) -> None:
    logits = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, unknown], [unknown, unknown]])
    text = card(logits, labels)
    assert "2 of 3 examples" in text
    assert rows_of(text)["0"] == ["0.500", "1.000", "0.667", "1"]
    assert rows_of(text)["1"] == ["1.000", "1.000", "1.000", "1"]


def test_a_logit_that_is_nan_predicts_nothing() -> None:
    logits = torch.tensor([[NAN, 1.0], [1.0, 1.0]])
    rows = rows_of(card(logits, torch.ones(2, 2)))
    assert rows["0"][3] == "1" and rows["1"][3] == "2"


@pytest.mark.parametrize("odd", [0.3, 7.0])
def test_labels_that_are_not_0_or_1_have_no_card(odd: float) -> None:
    labels = torch.tensor([[0.0, odd], [1.0, 1.0]])
    assert drawn(LabelF1(), [batch(torch.zeros(2, 2), labels)]) == []


def test_the_name_of_a_label_does_not_break_the_table() -> None:
    text = card(*examples(9, 2), id2label={0: "a|b", 1: "*c*"})
    assert not re.search(r"a\|b|\*c\*", text)
    assert "a&#124;b" in rows_of(text)


def test_a_batch_is_counted_without_looking_at_its_values() -> None:
    given = on_meta(batch(*examples(8, 3)))
    assert LabelF1().batch(given, evaluation()).totals
