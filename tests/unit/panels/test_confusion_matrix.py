"""The confusion matrix: its counts, of few and of very many classes, and what its picture says."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from tbtrainer.panels import confusion_matrix as module
from tbtrainer.panels.classified import classified
from tbtrainer.panels.confusion import compact
from tbtrainer.panels.confusion_counts import ConfusionCounts, pair_counts
from tbtrainer.panels.confusion_matrix import ConfusionMatrix
from tbtrainer.panels.totals import Totals
from tbtrainer.records import Image
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, split, texts_of_pictures

NAN, INF = float("nan"), float("inf")


def examples(
    number: int, classes: int, right: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and predictions of a classifier that is often right."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (number,), generator=generator)
    other = torch.randint(classes, (number,), generator=generator)
    is_right = torch.rand(number, generator=generator) < right
    predictions = torch.where(is_right, labels, other)
    logits = torch.rand(number, classes, generator=generator)
    logits[torch.arange(number), predictions] += 2
    return logits, labels, predictions


def counts_of(logits: torch.Tensor, labels: torch.Tensor, size: int = 64) -> ConfusionCounts:
    totals = Totals()
    for given in split(logits, labels, size):
        totals.add(pair_counts(classified(given)))
    return ConfusionCounts({name: total.numpy() for name, total in totals.sums.items()})


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("number", [2, 150])
def test_counts_are_those_of_scikit_learn(classes: int, number: int) -> None:
    logits, labels, predictions = examples(number, classes)
    counts = counts_of(logits, labels)
    expected = confusion_matrix(labels, predictions, labels=range(classes))
    assert np.array_equal(counts.among(np.arange(classes)), expected)


def test_a_class_that_no_example_has_is_counted() -> None:
    logits, labels, predictions = examples(50, 4)
    labels[labels == 2] = 1
    expected = confusion_matrix(labels, predictions, labels=range(4))
    assert np.array_equal(counts_of(logits, labels).among(np.arange(4)), expected)


@pytest.mark.parametrize("label, value", [(-100, 0.0), (3, 0.0), (1, NAN), (1, INF)])
def test_no_label_or_no_finite_probability_is_not_counted(label: int, value: float) -> None:
    logits, labels = torch.eye(3), torch.tensor([0, label, 2])
    logits[1, 1] += value
    assert counts_of(logits, labels).among(np.arange(3)).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]


def test_a_class_that_is_masked_out_is_no_fault() -> None:
    logits = torch.tensor([[0.0, 1.0, -INF]])
    assert counts_of(logits, torch.tensor([1])).correct.sum() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_equal_logits_the_first_class_is_predicted(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 3, dtype=dtype)
    assert counts_of(logits, torch.tensor([1])).among(np.arange(3))[1].tolist() == [1, 0, 0]


def test_very_many_classes_have_exact_totals_and_near_counts() -> None:
    logits, labels, predictions = examples(3000, 700)
    counts = counts_of(logits, labels)
    expected = confusion_matrix(labels, predictions, labels=range(700))
    assert not counts.is_exact
    assert np.array_equal(counts.labels, expected.sum(axis=1))
    wrong = expected.sum(axis=0) + expected.sum(axis=1) - 2 * expected.diagonal()
    assert np.array_equal(counts.mistakes, wrong)
    found = counts.among(np.arange(700))
    assert (found >= expected).all()
    assert np.array_equal(found.diagonal(), expected.diagonal())
    # About 1,000 mistakes share 34,000 counters in each of three rows.
    assert (found > expected).mean() < 1e-3


def test_the_most_classes_fit_into_the_totals() -> None:
    for classes in (module.MOST_CLASSES, 480, 481):
        totals = Totals()
        totals.add(pair_counts(classified(batch(torch.zeros(2, classes), torch.tensor([0, 1])))))


def test_classes_beyond_the_most_have_no_matrix() -> None:
    labels = torch.tensor([0, 1])
    for classes, applies in ((module.MOST_CLASSES, True), (module.MOST_CLASSES + 1, False)):
        first = batch(torch.zeros(2, classes), labels)
        assert ConfusionMatrix().applies(evaluation(first)) is applies


@pytest.mark.parametrize("classes", [3, 600])
def test_a_batch_is_counted_without_looking_at_its_values(classes: int) -> None:
    logits, labels, _ = examples(8, classes)
    given = on_meta(batch(logits, labels))
    assert ConfusionMatrix().batch(given, evaluation()).totals


def shown(monkeypatch: pytest.MonkeyPatch, classes: int, **config: Any) -> list[str]:
    """The texts of the picture of 150 examples."""
    texts = texts_of_pictures(monkeypatch, module)
    logits, labels, _ = examples(150, classes)
    (record,) = drawn(ConfusionMatrix(), list(split(logits, labels, 64)), **config)
    assert isinstance(record, Image) and record.tag == "eval/confusion_matrix"
    return texts


def test_the_title_says_accuracy_and_number_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = shown(monkeypatch, 4)
    _, labels, predictions = examples(150, 4)
    accuracy = (labels == predictions).float().mean()
    assert f"Accuracy {accuracy:.3f}, 150 examples" in texts


def test_few_classes_have_counts_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = shown(monkeypatch, 2, id2label={0: "no", 1: "yes"})
    _, labels, predictions = examples(150, 2)
    expected = confusion_matrix(labels, predictions)
    share = expected[0, 1] / expected[0].sum()
    assert {"no", "yes", f"{expected[0, 1]}\n{share:.0%}"} <= set(texts)


def test_more_than_ten_classes_have_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {index: f"class {index}" for index in range(11)}
    texts = shown(monkeypatch, 11, id2label=names)
    assert not [text for text in texts if text.isdigit()]


def test_of_many_classes_the_most_confused_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {index: f"class {index}" for index in range(60)}
    texts = shown(monkeypatch, 60, id2label=names)
    title = next(text for text in texts if text.startswith("Accuracy"))
    assert "30 of 60 classes, those with the most mistakes" in title
    _, labels, predictions = examples(150, 60)
    matrix = confusion_matrix(labels, predictions, labels=range(60))
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    worst = f"class {mistakes.argmax()}"
    assert worst in texts


def test_nothing_is_drawn_without_a_labelled_example() -> None:
    given = batch(torch.zeros(3, 2), torch.tensor([-100] * 3))
    assert drawn(ConfusionMatrix(), [given]) == []


def test_examples_without_a_label_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of_pictures(monkeypatch, module)
    drawn(ConfusionMatrix(), [batch(torch.eye(3), torch.tensor([0, -100, 2]))])
    assert "Accuracy 1.000, 2 of 3 examples" in texts


def test_each_dataset_has_a_matrix() -> None:
    (record,) = drawn(ConfusionMatrix(), [batch(torch.eye(2), torch.tensor([0, 1]))], dataset="a")
    assert isinstance(record, Image) and record.tag == "eval/a/confusion_matrix"


def test_a_count_has_at_most_four_characters() -> None:
    for exponent in range(13):
        for count in (10**exponent, 10**exponent - 1, 1234 * 10**exponent // 1000):
            assert len(compact(count)) <= 4
