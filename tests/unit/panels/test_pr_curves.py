"""Precision-recall curves: compared with scikit-learn, and which of them are shown."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_score, recall_score

from tbtrainer.panels.pr_curves import MOST_CLASSES, PrCurves, score_counts
from tbtrainer.panels.totals import Totals
from tbtrainer.records import PrCurve
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, split

NAN = float("nan")
STEPS = 126


def examples(number: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(classes, (number,), generator=generator)
    logits = torch.randn(number, classes, generator=generator)
    logits[torch.arange(number), labels] += 1
    return logits, labels


def curves(logits: torch.Tensor, labels: torch.Tensor, **config: Any) -> dict[str, PrCurve]:
    records = drawn(PrCurves(), list(split(logits, labels, 64)), **config)
    return {record.tag: record for record in records if isinstance(record, PrCurve)}


def assert_equal_to_scikit_learn(curve: PrCurve, positive: Any, scores: Any) -> None:
    fields = curve.raw_fields()
    for threshold in range(STEPS + 1):
        predicted = np.floor(scores * STEPS) >= threshold
        for name, score in (("precision", precision_score), ("recall", recall_score)):
            expected = score(positive, predicted, zero_division=0)
            assert fields[name][threshold] == pytest.approx(expected)


@pytest.mark.parametrize("number", [2, 150])
def test_of_two_classes_there_is_the_curve_of_class_1(number: int) -> None:
    logits, labels = examples(number, 2)
    labels[0] = 1
    found = curves(logits, labels, id2label={0: "no", 1: "yes"})
    assert list(found) == ["eval/pr_curve/yes"]
    scores = logits.softmax(dim=1)[:, 1].numpy()
    assert_equal_to_scikit_learn(found["eval/pr_curve/yes"], labels.numpy() == 1, scores)


def test_each_of_several_classes_has_a_curve() -> None:
    logits, labels = examples(150, 3)
    found = curves(logits, labels)
    assert set(found) == {f"eval/pr_curve/{index}" for index in range(3)}
    scores = logits.softmax(dim=1)[:, 2].numpy()
    assert_equal_to_scikit_learn(found["eval/pr_curve/2"], labels.numpy() == 2, scores)


def test_a_class_that_no_example_has_has_no_curve() -> None:
    logits, labels = examples(150, 3)
    labels[labels == 1] = 0
    assert set(curves(logits, labels)) == {"eval/pr_curve/0", "eval/pr_curve/2"}


def test_of_many_classes_the_most_frequent_have_curves() -> None:
    logits, labels = examples(150, 40)
    frequent = np.argsort(-np.bincount(labels, minlength=40), kind="stable")[:20]
    assert set(curves(logits, labels)) == {f"eval/pr_curve/{index}" for index in frequent}


def test_examples_without_label_or_finite_probability_are_left_out() -> None:
    logits, labels = examples(150, 2)
    odd_logits = torch.cat([logits, torch.tensor([[0.0, NAN], [0.0, 9.0]])])
    odd_labels = torch.cat([labels, torch.tensor([1, -100])])
    for expected, found in zip(
        curves(logits, labels).values(), curves(odd_logits, odd_labels).values(), strict=True
    ):
        assert np.array_equal(found.true_positives, expected.true_positives)
        assert np.array_equal(found.false_positives, expected.false_positives)


def test_certain_predictions_lie_at_the_ends() -> None:
    logits, labels = torch.tensor([[0.0, 99.0], [99.0, 0.0]]), torch.tensor([1, 0])
    (curve,) = curves(logits.to(torch.float16), labels).values()
    assert curve.true_positives.tolist() == [1.0] * 127
    assert curve.false_positives.tolist() == [1.0] + [0.0] * 126


def test_each_label_of_a_multi_label_model_has_a_curve() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(150, 3, generator=generator)
    labels = (torch.rand(150, 3, generator=generator) < 0.3).float()
    found = curves(logits, labels, id2label={0: "a", 1: "b", 2: "c"})
    assert set(found) == {"eval/pr_curve/a", "eval/pr_curve/b", "eval/pr_curve/c"}
    scores = logits[:, 1].sigmoid().numpy()
    assert_equal_to_scikit_learn(found["eval/pr_curve/b"], labels[:, 1].numpy() == 1, scores)


@pytest.mark.parametrize("odd", [0.5, 2.0])
def test_labels_between_0_and_1_have_no_curves(odd: float) -> None:
    labels = torch.tensor([[1.0, 0.0], [odd, 1.0]])
    assert curves(torch.zeros(2, 2), labels) == {}


def test_the_most_classes_fit_into_the_totals() -> None:
    for classes in (885, 886, MOST_CLASSES):
        zeros = torch.zeros(2, classes)
        counts = score_counts(zeros, zeros > 1, zeros == 0)
        Totals().add({"classes": counts})
        assert 31 <= counts.shape[2] <= 127


def test_a_batch_is_counted_without_looking_at_its_values() -> None:
    logits, labels = examples(8, 3)
    for given in (batch(logits, labels), batch(logits, (logits > 0).float())):
        given = on_meta(given)
        assert PrCurves().batch(given, evaluation()).totals
