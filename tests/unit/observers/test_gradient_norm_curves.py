"""The norms of a logging window as scalars."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments, tags
from tbtrainer.isolation import Isolation
from tbtrainer.observers.gradient_norm_curves import GradientNormCurves, norm_scalars
from tbtrainer.observers.gradient_norms import GradientNormSummary
from tbtrainer.observers.observer import Gradients
from tbtrainer.sharding import parameter_table

WINDOW = GradientNormSummary(
    steps=3,
    nonfinite_steps=1,
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
        "health/nonfinite_gradients": 1,
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


def test_a_window_without_a_finite_step_shows_their_number_only() -> None:
    broken = replace(WINDOW, steps=0, nonfinite_steps=2)
    assert shown(broken) == {"health/nonfinite_gradients": 2}


def observer_of(model: nn.Module, errors: str = "raise") -> tuple[GradientNormCurves, Any]:
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(norm_detail="total"),
        parameters=parameter_table(model, is_world_process_zero=True),
        max_grad_norm=0.0,
        device=torch.device("cpu"),
    )
    observer = GradientNormCurves(Isolation(errors))
    observer.run_begins(0, training)
    return observer, training.parameters


def test_each_logging_step_begins_a_new_window() -> None:
    model = nn.Linear(4, 1, bias=False)
    observer, table = observer_of(model)
    totals = []
    for step, value in enumerate((1.0, 2.0), start=1):
        model.weight.grad = torch.full_like(model.weight, value)
        observer.gradients_ready(step, Gradients(table.gradients(), None))
        scalars = {s.tag: s.value for s in observer.logging_step(step)}
        totals.append(scalars[tags.GRAD_NORM_TOTAL.name])
    assert totals == pytest.approx([2.0, 4.0])
    assert observer.logging_step(2) == []


def test_gradients_that_could_not_be_read_are_no_step() -> None:
    observer, _ = observer_of(nn.Linear(2, 1), errors="warn")
    observer.gradients_ready(1, None)
    assert observer.logging_step(1) == []


def test_outside_of_a_training_no_norm_is_shown() -> None:
    observer, table = observer_of(nn.Linear(2, 1))
    observer.close()
    observer.gradients_ready(1, Gradients(table.gradients(), None))
    assert observer.logging_step(1) == []
