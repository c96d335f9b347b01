"""The reliability diagram: its bins and the expected calibration error."""

import numpy as np
import pytest
import torch

from tbtrainer.panels import calibration as module
from tbtrainer.panels.calibration import BINS, Calibration, Reliability, confidence_totals
from tbtrainer.panels.classified import classified
from tbtrainer.panels.totals import Totals
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, split, texts_of_pictures

NAN = float("nan")


def examples(number: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    logits = 3 * torch.randn(number, classes, generator=generator)
    return logits, torch.randint(classes, (number,), generator=generator)


def reliability(logits: torch.Tensor, labels: torch.Tensor) -> Reliability:
    totals = Totals()
    for given in split(logits, labels, 64):
        totals.add(confidence_totals(classified(given)))
    return Reliability.of({name: total.numpy() for name, total in totals.sums.items()})


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("number", [2, 150])
def test_the_error_is_that_of_the_formula(classes: int, number: int) -> None:
    logits, labels = examples(number, classes)
    confidences, predictions = logits.double().softmax(dim=1).max(dim=1)
    expected = 0.0
    for i in range(BINS):
        inside = (confidences > i / BINS) & (confidences <= (i + 1) / BINS)
        if inside.any():
            accuracy = (predictions == labels)[inside].double().mean()
            expected += float(inside.sum() * abs(accuracy - confidences[inside].mean()) / number)
    assert reliability(logits, labels).expected_error == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = examples(150, 5)
    exact = reliability(logits.to(dtype).double(), labels)
    found = reliability(logits.to(dtype), labels)
    np.testing.assert_allclose(found.confidence, exact.confidence, rtol=1e-6)


def test_a_bin_has_its_accuracy_and_mean_confidence() -> None:
    # Confidences of 0.5 and of almost 1, each right once and wrong once.
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [40.0, 0.0], [40.0, 0.0]])
    found = reliability(logits, torch.tensor([0, 1, 0, 1]))
    assert found.examples.tolist() == [0] * 7 + [2] + [0] * 6 + [2]
    assert (found.accuracy[7], found.confidence[7]) == (0.5, 0.5)
    assert (found.accuracy[14], found.confidence[14]) == (0.5, 1.0)
    assert found.expected_error == 0.25


def test_a_bin_includes_its_upper_end() -> None:
    uniform = torch.zeros(1, 3)
    assert np.flatnonzero(reliability(uniform, torch.tensor([0])).examples).tolist() == [4]


def test_examples_without_label_or_finite_probability_are_left_out() -> None:
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [NAN, 0.0]])
    assert reliability(logits, torch.tensor([0, -100, 0])).examples.sum() == 1


def test_the_title_says_error_and_number_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of_pictures(monkeypatch, module)
    logits, labels = examples(150, 3)
    (record,) = drawn(Calibration(), list(split(logits, labels, 64)))
    error = reliability(logits, labels).expected_error
    assert f"Expected calibration error {error:.3f}, 150 examples" in texts
    assert record.tag == "eval/calibration"


def test_nothing_is_drawn_without_a_labelled_example() -> None:
    assert drawn(Calibration(), [batch(torch.zeros(3, 2), torch.tensor([-100] * 3))]) == []


def test_a_batch_is_counted_without_looking_at_its_values() -> None:
    given = on_meta(batch(*examples(8, 3)))
    assert Calibration().batch(given, evaluation()).totals
