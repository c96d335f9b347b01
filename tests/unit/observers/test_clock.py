"""The clock measures what the training loop spends in tbtrainer, no more and no less."""

from collections.abc import Callable

import pytest

from tbtrainer.observers.clock import Clock

Wait = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets time pass on a clock of the test's own."""
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_the_fraction_is_the_share_of_the_window(wait: Wait) -> None:
    clock = Clock()
    with clock.measured():
        wait(1.0)
    wait(3.0)
    assert clock.fraction() == pytest.approx(0.25)


def test_set_up_before_the_window_is_not_in_it(wait: Wait) -> None:
    clock = Clock()
    with clock.measured():
        wait(0.3)
        clock.restart()
    wait(0.3)
    assert clock.fraction() == 0.0


def test_a_block_that_is_not_over_counts_in_its_window(wait: Wait) -> None:
    clock = Clock()
    wait(3.0)
    with clock.measured():
        wait(1.0)
        assert clock.fraction() == pytest.approx(0.25)
    wait(1.0)
    assert clock.fraction() == 0.0


def test_the_rest_of_a_block_counts_in_the_next_window(wait: Wait) -> None:
    clock = Clock()
    with clock.measured():
        clock.fraction()
        wait(1.0)
    wait(1.0)
    assert clock.fraction() == pytest.approx(0.5)


def test_a_block_inside_another_is_counted_once(wait: Wait) -> None:
    clock = Clock()
    with clock.measured(), clock.measured():
        wait(1.0)
    wait(1.0)
    assert clock.fraction() == pytest.approx(0.5)


def test_a_block_that_raises_is_counted(wait: Wait) -> None:
    clock = Clock()
    with pytest.raises(KeyError), clock.measured():
        wait(1.0)
        raise KeyError
    wait(1.0)
    assert clock.fraction() == pytest.approx(0.5)


def test_a_window_without_time_has_no_overhead(wait: Wait) -> None:
    assert Clock().fraction() == 0.0
