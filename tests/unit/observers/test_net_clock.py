"""A clock that can be paused, in total and in tbtrainer."""

from collections.abc import Iterator

import pytest

from tbtrainer.observers.clock import Clock
from tbtrainer.observers.net_clock import Elapsed, NetClock
from tests.fake_clock import FakeClock


@pytest.fixture
def fake() -> Iterator[FakeClock]:
    with FakeClock().installed() as clock:
        yield clock


def test_pauses_do_not_count(fake: FakeClock) -> None:
    clock = Clock()
    net = NetClock(clock)
    began = net.read()
    fake.wait(3.0)
    net.pause()
    with clock.measured():
        fake.wait(100.0)
    net.resume()
    with clock.measured():
        fake.wait(1.0)
    assert net.read().since(began) == Elapsed(total=4.0, telemetry=1.0)


def test_a_second_pause_inside_the_first_changes_nothing(fake: FakeClock) -> None:
    net = NetClock(Clock())
    began = net.read()
    net.pause()
    fake.wait(10.0)
    net.pause()
    fake.wait(10.0)
    net.resume()
    net.resume()
    assert net.read().since(began).total == 0.0


def test_a_paused_clock_stands_still(fake: FakeClock) -> None:
    net = NetClock(Clock())
    net.pause()
    before = net.read()
    fake.wait(10.0)
    assert net.read() == before
