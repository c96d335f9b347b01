"""The norms of a logging window as scalars."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments, tags
from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.gradient_norm_curves import GradientNormCurves, norm_scalars
from tbtrainer.observers.norm_summary import GradientNormSummary
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.records import Scalar
from tbtrainer.sharding import parameter_table

WINDOW = GradientNormSummary(
    steps=3,
    rms={"layers.0": 3.0, "head": 4.0},
    total=5.0,
    maximum=7.0,
    clipped=1.0,
    clip_fraction=0.5,
)


def shown(window: GradientNormSummary, detail: str = "block") -> dict[str, float]:
    return {scalar.tag: scalar.value for scalar in norm_scalars(window, detail)}


def test_a_window_is_shown_in_total_and_by_block() -> None:
    assert shown(WINDOW) == {
        "grad_norm/total": 5.0,
        "grad_norm/max": 7.0,
        "grad_norm/clipped": 1.0,
        "grad_norm/clip_fraction": 0.5,
        "grad_norm_per_block/layers.0": 3.0,
        "grad_norm_per_block/head": 4.0,
    }


def test_norms_by_parameter_have_a_group_of_their_own() -> None:
    by_parameter = replace(WINDOW, rms={"head.weight": 4.0})
    assert shown(by_parameter, "parameter")["grad_norm_per_parameter/head.weight"] == 4.0


@pytest.mark.parametrize(
    ("missing", "tag"),
    [
        ("total", "grad_norm/total"),
        ("maximum", "grad_norm/max"),
        ("clipped", "grad_norm/clipped"),
        ("clip_fraction", "grad_norm/clip_fraction"),
    ],
)
def test_an_unknown_number_is_left_out(missing: str, tag: str) -> None:
    window: Any = replace(WINDOW, **{missing: None})
    assert set(shown(WINDOW)) - set(shown(window)) == {tag}


class Curves:
    """The curves, and the measurements before them."""

    def __init__(self, errors: str) -> None:
        self.measurements = StepMeasurements(Isolation(errors))
        self.curves = GradientNormCurves(self.measurements)

    def run_begins(self, step: int, training: Any) -> None:
        self.measurements.run_begins(step, training)
        self.curves.run_begins(step, training)

    def step(self, step: int, gradients: Gradients | None) -> list[Scalar]:
        """Takes one step, which is a logging step."""
        self.measurements.gradients_ready(step, gradients)
        return self.logging_step(step)

    def logging_step(self, step: int) -> list[Scalar]:
        self.measurements.logging_step(step)
        return self.curves.logging_step(step)


def observer_of(model: nn.Module, errors: str = "raise") -> tuple[Curves, Any]:
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(norm_detail="total"),
        parameters=parameter_table(model, is_world_process_zero=True),
        max_grad_norm=0.0,
        device=torch.device("cpu"),
    )
    observer = Curves(errors)
    observer.run_begins(0, training)
    return observer, training.parameters


def test_each_logging_step_begins_a_new_window() -> None:
    model = nn.Linear(4, 1, bias=False)
    observer, table = observer_of(model)
    totals = []
    for step, value in enumerate((1.0, 2.0), start=1):
        model.weight.grad = torch.full_like(model.weight, value)
        shown_now = observer.step(step, Gradients(table.gradients(), None))
        scalars = {s.tag: s.value for s in shown_now}
        totals.append(scalars[tags.GRAD_NORM_TOTAL.name])
    assert totals == pytest.approx([2.0, 4.0])
    assert observer.logging_step(2) == []


def test_gradients_that_could_not_be_read_are_no_step() -> None:
    observer, _ = observer_of(nn.Linear(2, 1), errors="warn")
    assert observer.step(1, None) == []


def test_outside_of_a_training_no_norm_is_shown() -> None:
    observer, table = observer_of(nn.Linear(2, 1))
    observer.measurements.close()
    observer.curves.close()
    assert observer.step(1, Gradients(table.gradients(), None)) == []
