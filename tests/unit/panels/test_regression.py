"""Plots of a regression: R² and RMSE compared with scikit-learn, and which points are shown."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, root_mean_squared_error

from tbtrainer.panels import regression as module
from tbtrainer.panels.plots import limits
from tbtrainer.panels.regression import PredictedAgainstTrue, Residuals
from tbtrainer.panels.regression_fit import RegressionFit, finite_points, regression_kept
from tbtrainer.panels.totals import Totals
from tests.panel_evaluations import batch, drawn, evaluation, on_meta, split, texts_of_pictures

NAN, INF = float("nan"), float("inf")
PANELS = [PredictedAgainstTrue, Residuals]


def examples(number: int, mean: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    labels = mean + torch.randn(number, generator=generator)
    return (labels + 0.3 * torch.randn(number, generator=generator))[:, None], labels


def fit_of(logits: torch.Tensor, labels: torch.Tensor) -> RegressionFit | None:
    totals = Totals()
    for given in split(logits, labels, 64):
        totals.add(regression_kept(given).totals)
    return RegressionFit.of({name: total.numpy() for name, total in totals.sums.items()})


@pytest.mark.parametrize("number", [2, 150])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_scores_are_those_of_scikit_learn(number: int, mean: float) -> None:
    logits, labels = examples(number, mean)
    fit = fit_of(logits, labels)
    assert fit is not None and fit.examples == number
    pair = labels.double().numpy(), logits[:, 0].double().numpy()
    assert fit.r_squared == pytest.approx(r2_score(*pair), rel=1e-6)
    assert fit.rmse == pytest.approx(root_mean_squared_error(*pair), rel=1e-6)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_column_is_no_other_than_a_row(shape: tuple[int, ...]) -> None:
    logits, labels = torch.tensor([[1.0], [4.0]]), torch.tensor([1.0, 3.0]).reshape(shape)
    fit = fit_of(logits, labels)
    assert fit is not None and fit.rmse == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("prediction, label", [(NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, -INF)])
def test_what_is_not_finite_is_left_out(prediction: float, label: float) -> None:
    logits, labels = examples(9)
    odd = (
        torch.cat([logits, torch.tensor([[prediction]])]),
        torch.cat([labels, torch.tensor([label])]),
    )
    assert fit_of(*odd) == fit_of(logits, labels)
    kept = regression_kept(batch(*odd)).examples
    points = finite_points({name: column.numpy() for name, column in kept.items()})
    np.testing.assert_array_equal(points, [logits[:, 0].numpy(), labels.numpy()])


@pytest.mark.parametrize("value", [0.0, 1.1, 12345.678])
def test_equal_labels_have_no_r_squared(value: float) -> None:
    logits, _ = examples(150)
    fit = fit_of(logits, torch.full((150,), value, dtype=torch.float64))
    assert fit is not None and np.isnan(fit.r_squared) and fit.rmse > 0


def test_half_precision_is_measured_in_float64() -> None:
    logits, labels = torch.tensor([300.0, 500.0]), torch.tensor([400.0, 500.0])
    fit = fit_of(logits.half(), labels.half())
    assert fit is not None and fit.rmse == pytest.approx(5000**0.5)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("number", [1, 150, 700])
def test_the_title_says_how_near_the_model_is(
    panel: type, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of_pictures(monkeypatch, module)
    logits, labels = examples(number)
    (record,) = drawn(panel(), list(split(logits, labels, 64)))
    fit = fit_of(logits, labels)
    assert fit is not None
    line = f"{number} example{'s' if number > 1 else ''}"
    assert f"R² {fit.r_squared:.3f}, RMSE {fit.rmse:.4g}, {line}" in texts
    assert record.tag == f"eval/{panel.name}"


def test_of_many_examples_some_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of_pictures(monkeypatch, module)
    drawn(PredictedAgainstTrue(), list(split(*examples(1300), 64)))
    assert any(text.endswith("1,300 examples, 1,000 of them shown") for text in texts)


@pytest.mark.parametrize("panel", PANELS)
def test_equal_values_can_be_drawn(panel: type) -> None:
    zeros = torch.zeros(700)
    assert len(drawn(panel(), [batch(zeros, zeros)], problem_type="regression")) == 1


@pytest.mark.parametrize("declared, pictures", [(None, 0), ("regression", 1)])
def test_labels_of_0_and_1_are_a_regression_if_declared(
    declared: str | None, pictures: int
) -> None:
    given = batch(torch.tensor([[0.3], [2.0]]), torch.tensor([1.0, 0.0]))
    assert len(drawn(Residuals(), [given], problem_type=declared)) == pictures


def test_nothing_is_drawn_without_a_finite_example() -> None:
    assert drawn(Residuals(), [batch(torch.full((3, 1), NAN), torch.ones(3))]) == []


def test_an_axis_has_a_margin_around_all_values() -> None:
    low, high = limits(np.array([3.0, 1.0, 2.0]))
    assert low < 1 and high > 3
    low, high = limits(np.array([2.0]))
    assert low < 2 < high


def test_a_batch_is_measured_without_looking_at_its_values() -> None:
    given = on_meta(batch(*examples(8)))
    assert Residuals().batch(given, evaluation()).totals
