"""When a snapshot is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.trainer_utils import IntervalStrategy

from tbtrainer.observers.schedule import SnapshotSchedule, agreed_schedule, steps_per_epoch


def due_steps(strategy: str, steps: float, max_steps: int, per_epoch: int = 4) -> list[int]:
    schedule = SnapshotSchedule.from_arguments(
        IntervalStrategy(strategy), steps, max_steps, per_epoch
    )
    return [step for step in range(max_steps + 1) if schedule.is_due(step)]


def test_every_third_step_and_the_last() -> None:
    assert due_steps("steps", 3, 10) == [3, 6, 9, 10]


def test_epochs_end_where_their_last_step_is() -> None:
    assert due_steps("epoch", 0.02, 10, per_epoch=4) == [4, 8, 10]


def test_no_means_never() -> None:
    assert due_steps("no", 1, 10) == []


@given(st.integers(1, 100_000))
def test_the_default_ratio_gives_at_most_fifty_one_snapshots(max_steps: int) -> None:
    schedule = SnapshotSchedule.from_arguments(IntervalStrategy.STEPS, 0.02, max_steps, 1)
    snapshots = max_steps // schedule.every + (max_steps % schedule.every > 0)
    assert 1 <= snapshots <= 51


@pytest.mark.parametrize(
    ("batches", "accumulation", "expected"), [(10, 1, 10), (10, 4, 3), (1, 8, 1), (None, 2, 77)]
)
def test_the_last_part_of_an_epoch_is_a_step(
    batches: int | None, accumulation: int, expected: int
) -> None:
    assert steps_per_epoch(batches, accumulation, max_steps=77) == expected


def test_one_process_keeps_its_schedule() -> None:
    schedule = SnapshotSchedule(every=4, last=10)
    assert agreed_schedule(schedule) == schedule
