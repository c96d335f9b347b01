"""Which steps are bad, and readings one after the other."""

from typing import Any

import numpy as np
import pytest

from tbtrainer.observers import step_facts
from tbtrainer.observers.step_facts import StepNorms, StepsReading
from tests.measured_steps import facts_of

NAN, INF = float("nan"), float("inf")
OVERFLOW: dict[str, Any] = {
    "grad_norm": INF,
    "looks_overflowed": True,
    "loss_scale": 1.0,
    "was_skipped": True,
}


def reading_of(*steps: int, bad: int | None = None, unread: bool = False) -> StepsReading:
    return StepsReading(
        steps=[facts_of(step, grad_norm=NAN if step == bad else 1.0) for step in steps],
        squares=np.array([float(len(steps))]),
        finite_steps=len(steps),
        unread=np.array([unread]),
        last_norms=[StepNorms(step, np.ones(1)) for step in steps],
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": NAN, "loss_rank": 0},
        {"grad_norm": NAN},
        {"grad_norm": INF},
        {**OVERFLOW, "loss_scale": 0.5},
        {**OVERFLOW, "loss": NAN, "loss_rank": 1},
        {**OVERFLOW, "grad_norm": NAN, "looks_overflowed": False},
        {**OVERFLOW, "was_skipped": False},
    ],
)
def test_a_step_that_is_not_finite_is_bad(changes: dict[str, Any]) -> None:
    assert facts_of(1, **changes).is_bad


@pytest.mark.parametrize(
    "changes", [{}, OVERFLOW, {"grad_norm": None}, {"loss": None}, {**OVERFLOW, "grad_norm": NAN}]
)
def test_an_overflow_or_an_unknown_number_is_no_bad_step(changes: dict[str, Any]) -> None:
    assert not facts_of(1, **changes).is_bad


def test_readings_one_after_the_other_are_added_up() -> None:
    both = reading_of(1, 2).then(reading_of(3, unread=True))
    assert [facts.step for facts in both.steps] == [1, 2, 3]
    assert (both.squares.tolist(), both.finite_steps) == ([3.0], 3)
    assert both.unread.tolist() == [True]
    assert [norms.step for norms in both.last_norms] == [3]


def test_the_norms_before_a_bad_step_stay_known() -> None:
    both = reading_of(1, 2, bad=2).then(reading_of(3))
    assert both.first_bad is not None
    assert both.first_bad.step == 2
    assert [norms.step for norms in both.last_norms] == [1, 2]


def test_a_window_without_logging_steps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_facts, "MOST_FACTS", 3)
    both = reading_of(1, 2).then(reading_of(3, 4))
    assert [facts.step for facts in both.steps] == [2, 3, 4]
    assert both.finite_steps == 4
