"""The overhead is the telemetry's share of exactly the time between two logging steps."""

import pytest

from tbtrainer.observers import overhead as module
from tbtrainer.observers.overhead import Overhead


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", made.perf_counter)
    return made


def test_setting_up_is_in_no_window(clock):
    overhead = Overhead()
    with overhead.measured():
        clock.seconds += 0.3
        overhead.restart()
    clock.seconds += 1.0
    assert overhead.fraction() == 0.0


def test_a_block_is_divided_where_the_window_ends(clock):
    overhead = Overhead()
    clock.seconds += 3.0
    with overhead.measured():
        clock.seconds += 1.0
        assert overhead.fraction() == pytest.approx(0.25)
        clock.seconds += 2.0
    clock.seconds += 2.0
    assert overhead.fraction() == pytest.approx(0.5)
    clock.seconds += 1.0
    assert overhead.fraction() == 0.0


def test_a_block_inside_another_is_counted_once(clock):
    overhead = Overhead()
    with overhead.measured():
        clock.seconds += 1.0
        with overhead.measured():
            clock.seconds += 1.0
    clock.seconds += 2.0
    assert overhead.fraction() == pytest.approx(0.5)


def test_a_window_without_time_has_no_overhead(clock):
    assert Overhead().fraction() == 0.0
