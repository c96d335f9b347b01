"""The confusion matrix of tokens: its counts, and what it leaves out."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from tbtrainer.panels import token_confusion as module
from tbtrainer.panels.token_confusion import TokenConfusion
from tbtrainer.records import Image
from tests.panel_evaluations import drawn, evaluation, on_meta, texts_of_pictures
from tests.unit.panels.test_token_classes import BIO, POS, given, tokens


def matrix_of(monkeypatch: pytest.MonkeyPatch, names: list[str], *batches: Any) -> Any:
    """What is drawn: counts, totals of the rows, names of rows and of columns, title."""
    calls: list[Any] = []
    draw = module.draw_confusion

    def noted(figure: Any, *values: Any) -> None:
        calls.append(values)
        draw(figure, *values)

    monkeypatch.setattr(module, "draw_confusion", noted)
    (record,) = drawn(TokenConfusion(), batches, id2label=dict(enumerate(names)))
    assert isinstance(record, Image) and record.tag == "eval/token_confusion"
    return calls[0]


def test_the_outside_class_is_the_last_column_only(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, predictions = tokens(5, 30, 20)
    counts, totals, rows, columns, title = matrix_of(
        monkeypatch, BIO, given(logits[:20], labels[:20]), given(logits[20:], labels[20:])
    )
    counted = labels >= 0
    expected = confusion_matrix(labels[counted], predictions[counted])
    assert np.array_equal(counts, expected[1:, [1, 2, 3, 4, 0]])
    assert np.array_equal(totals, expected[1:].sum(axis=1))
    assert rows == BIO[1:] and columns == [*BIO[1:], "O"]
    inside = int((labels > 0).sum())
    assert title == f"{inside:,} tokens of 30 examples, without those labelled O"


def test_without_outside_class_the_matrix_is_square(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, predictions = tokens(3, 10, 9)
    counts, _, rows, columns, title = matrix_of(monkeypatch, POS, given(logits, labels))
    counted = labels >= 0
    assert np.array_equal(counts, confusion_matrix(labels[counted], predictions[counted]))
    assert rows == columns == POS
    assert title == f"{int(counted.sum())} tokens of 10 examples"


def test_of_many_classes_the_most_confused_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["O", *(f"tag {index}" for index in range(59))]
    logits, labels, predictions = tokens(60, 30, 20)
    counts, totals, rows, _, title = matrix_of(monkeypatch, names, given(logits, labels))
    assert counts.shape == (30, 31)
    assert "30 of 59 classes, those with the most mistakes" in title
    counted = labels >= 0
    expected = confusion_matrix(labels[counted], predictions[counted], labels=range(60))
    mistakes = expected.sum(axis=0) + expected.sum(axis=1) - 2 * expected.diagonal()
    worst = 1 + int(mistakes[1:].argmax())
    assert totals[rows.index(names[worst])] == expected[worst].sum()


def test_very_many_classes_are_said_to_be_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["O", *(f"tag {index}" for index in range(599))]
    logits, labels, _ = tokens(600, 4, 20)
    title = matrix_of(monkeypatch, names, given(logits, labels))[-1]
    assert title.endswith("numbers of mistakes are approximate")


def test_names_and_counts_are_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of_pictures(monkeypatch, module)
    labels = torch.tensor([[1, 1, 1, 3, 0]])
    predictions = torch.tensor([[1, 1, 0, 3, 0]])
    one = given(torch.eye(5)[predictions], labels)
    drawn(TokenConfusion(), [one], id2label=dict(enumerate(BIO)))
    assert {"B-a", "I-b", "O", "2", "1"} <= set(texts)
    assert "4 tokens of 1 example, without those labelled O" in texts


def test_nothing_is_drawn_if_all_tokens_are_outside() -> None:
    labels = torch.tensor([[0, 0, -100]])
    one = given(torch.eye(5)[torch.tensor([[0, 1, 2]])], labels)
    assert drawn(TokenConfusion(), [one], id2label=dict(enumerate(BIO))) == []


def test_a_batch_is_counted_without_looking_at_its_values() -> None:
    logits, labels, _ = tokens(5, 4, 6)
    one = on_meta(given(logits, labels))
    assert TokenConfusion().batch(one, evaluation(one)).totals
