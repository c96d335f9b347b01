"""Counts of a window: which steps are in which, and what is left out."""

from typing import Any

import pytest
import torch

from tbtrainer import tags
from tbtrainer.observers import health_counts
from tbtrainer.observers.health_counts import HealthCounts, count_scalars
from tests.measured_steps import MeasuredSteps, facts_of

NAN, INF = float("nan"), float("inf")
OVERFLOW: dict[str, Any] = {
    "grad_norm": INF,
    "looks_overflowed": True,
    "loss_scale": 1024.0,
    "was_skipped": True,
}


def counts_of(*steps: dict[str, Any]) -> dict[str, float]:
    facts = [facts_of(number, **changes) for number, changes in enumerate(steps, start=1)]
    return {scalar.tag: scalar.value for scalar in count_scalars(facts)}


def test_a_healthy_window_has_zeros() -> None:
    assert counts_of({}, {}) == {
        tags.NONFINITE_LOSSES.name: 0.0,
        tags.NONFINITE_GRADIENTS.name: 0.0,
    }


def test_bad_losses_and_bad_gradients_are_counted_apart() -> None:
    counts = counts_of(
        {"loss": NAN, "loss_rank": 0},
        {"loss": NAN, "loss_rank": 1, "grad_norm": NAN},
        {"grad_norm": INF},
        {"grad_norm": NAN},
    )
    assert counts[tags.NONFINITE_LOSSES.name] == 2
    assert counts[tags.NONFINITE_GRADIENTS.name] == 3


def test_an_overflow_is_counted_as_a_skipped_step_alone() -> None:
    counts = counts_of({"loss_scale": 1024.0}, OVERFLOW, OVERFLOW)
    assert counts[tags.SKIPPED_STEPS.name] == 2
    assert counts[tags.NONFINITE_GRADIENTS.name] == 0


def test_a_skipped_step_with_nan_is_in_both() -> None:
    counts = counts_of({**OVERFLOW, "grad_norm": NAN, "looks_overflowed": False})
    assert counts[tags.SKIPPED_STEPS.name] == 1
    assert counts[tags.NONFINITE_GRADIENTS.name] == 1


@pytest.mark.parametrize(
    ("changes", "tag"),
    [({"loss": None}, tags.NONFINITE_LOSSES), ({"grad_norm": None}, tags.NONFINITE_GRADIENTS)],
)
def test_what_no_step_knows_is_left_out(changes: dict[str, Any], tag: tags.Tag) -> None:
    assert tag.name not in counts_of(changes, changes)
    assert tag.name in counts_of(changes, {})


def test_the_spread_is_the_largest_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ({"loss_spread": 0.5}, {"loss_spread": 2.0}, {"loss_spread": None})
    assert tags.LOSS_SPREAD.name not in counts_of(*steps)
    monkeypatch.setattr(health_counts, "world_size", lambda: 2)
    assert counts_of(*steps)[tags.LOSS_SPREAD.name] == 2.0


def test_steps_after_the_last_logging_step_are_counted() -> None:
    steps = MeasuredSteps()
    counts = HealthCounts(steps.measurements)
    steps.take(loss=NAN)
    steps.measurements.run_ends(1)
    shown = {scalar.tag: scalar.value for scalar in counts.run_ends(1)}
    assert shown[tags.NONFINITE_LOSSES.name] == 1.0
    steps.measurements.run_ends(1)
    assert counts.run_ends(1) == []


def test_a_window_is_counted_whole_and_once() -> None:
    steps = MeasuredSteps()
    counts = HealthCounts(steps.measurements)
    steps.take(loss=NAN)
    steps.measurements.checkpoint_begins(1)
    steps.take(loss=NAN)
    steps.take(bad={"embed.weight": INF}, loss_scale=torch.tensor(2.0), was_skipped=True)
    steps.log()
    assert {scalar.tag: scalar.value for scalar in counts.logging_step(3)} == {
        tags.NONFINITE_LOSSES.name: 2.0,
        tags.NONFINITE_GRADIENTS.name: 0.0,
        tags.SKIPPED_STEPS.name: 1.0,
    }
    steps.log()
    assert counts.logging_step(3) == []
