"""Which snapshots are kept and drawn follows from the schedule alone."""

from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.observers.kept_snapshots import KeptSnapshots
from tbtrainer.observers.schedule import SnapshotSchedule


def due(schedule: SnapshotSchedule) -> list[int]:
    return [step for step in range(1, schedule.last + 1) if schedule.is_due(step)]


@given(st.integers(1, 40), st.integers(1, 1500), st.integers(1, 100))
def test_few_are_kept_and_the_last_is_drawn(every: int, last: int, most: int) -> None:
    schedule = SnapshotSchedule(every, last)
    kept = KeptSnapshots(schedule, most)
    steps = due(schedule)
    chosen = [step for step in steps if kept.is_kept(step)]
    drawn = [step for step in steps if kept.is_drawn(step)]
    assert len(chosen) <= most + 1
    assert len(chosen) >= min(len(steps), most // 2)
    assert len(drawn) == min(max(len(chosen) // 5, 1), 10)
    assert set(drawn) <= set(chosen)
    assert chosen[-1] == drawn[-1] == steps[-1] == last


def test_all_are_kept_by_default() -> None:
    schedule = SnapshotSchedule(every=20, last=1010)
    kept = KeptSnapshots(schedule)
    assert [step for step in due(schedule) if kept.is_kept(step)] == due(schedule)
    assert [step for step in due(schedule) if kept.is_drawn(step)] == [
        *(120, 220, 320, 420, 520, 620, 720, 820, 920, 1010)
    ]


def test_the_snapshot_of_an_early_end_is_kept() -> None:
    kept = KeptSnapshots(SnapshotSchedule(every=10, last=1000), most=10)
    assert kept.is_kept(57)
    assert not kept.is_drawn(57)
    assert not kept.is_kept(60)
