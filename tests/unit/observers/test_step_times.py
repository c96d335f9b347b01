"""The phases of a step lie between its marks, on the host's clock or in a device's events."""

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tbtrainer.observers import step_times
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.step_times import Mark, StepSeconds, StepTimes
from tests.fake_clock import FakeClock


@pytest.fixture
def fake() -> Iterator[FakeClock]:
    with FakeClock().installed() as clock:
        yield clock


def step(times: StepTimes, fake: FakeClock, *left_out: Mark) -> None:
    """Marks a step with 1 second before the second mark, 2 before the third, and so on."""
    for mark in Mark:
        fake.wait(float(mark))
        if mark not in left_out:
            times.mark(mark)


EXPECTED = StepSeconds(data=1.0, own=4.0, forward_backward=9.0, optimizer=6.0, telemetry=12.0)


def test_phases_are_between_the_marks(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    step(times, fake)
    assert times.take() == [EXPECTED]


def test_a_copy_has_none_of_the_marks(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    step(times, fake)
    times.mark(Mark.DATA_REQUESTED)
    # Stands for an event of a device, which cannot be copied.
    times._open[Mark.DATA_RECEIVED] = threading.Lock()
    assert copy.deepcopy(times).take() == []
    assert times.take() == [EXPECTED]


def test_the_clock_stands_still_in_telemetry(fake: FakeClock) -> None:
    clock = Clock()
    times = StepTimes(clock)
    for mark in Mark:
        fake.wait(1.0)
        with clock.measured():
            fake.wait(5.0)
            times.mark(mark)
    (seconds,) = times.take()
    assert (seconds.data, seconds.forward_backward) == (1.0, 3.0)


def test_taking_begins_anew(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    step(times, fake)
    times.take()
    assert times.take() == []


def test_times_of_too_many_steps_are_not_kept(
    fake: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_times, "_MOST_STEPS", 100)
    times = StepTimes(Clock())
    for _ in range(200):
        step(times, fake)
    kept = times._measured
    assert (kept, times.take()) == (None, [])


def test_steps_after_too_many_are_measured(
    fake: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_times, "_MOST_STEPS", 1)
    times = StepTimes(Clock())
    for _ in range(2):
        step(times, fake)
    times.take()
    step(times, fake)
    assert times.take() == [EXPECTED]


@pytest.mark.parametrize("mark", [Mark.DATA_REQUESTED, Mark.DATA_RECEIVED, Mark.GRADIENTS_READY])
def test_a_step_without_a_mark_is_left_out(fake: FakeClock, mark: Mark) -> None:
    times = StepTimes(Clock())
    step(times, fake, mark)
    assert times.take() == []


def test_a_step_whose_forward_pass_is_unseen_has_phases(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    step(times, fake, Mark.FORWARD_DONE)
    (seconds,) = times.take()
    assert (seconds.own, seconds.forward_backward) == (0.0, 9.0)


def test_the_first_of_several_forward_passes_counts(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    for mark in Mark:
        fake.wait(float(mark))
        times.mark(mark)
        if mark is Mark.FORWARD_DONE:
            times.mark(Mark.FORWARD_BEGINS)
            times.mark(Mark.FORWARD_DONE)
    assert times.take() == [EXPECTED]


def test_a_step_that_does_not_end_is_left_out(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    times.mark(Mark.DATA_REQUESTED)
    fake.wait(50.0)
    step(times, fake)
    assert times.take() == [EXPECTED]


def test_a_discarded_step_is_left_out(fake: FakeClock) -> None:
    times = StepTimes(Clock())
    times.mark(Mark.DATA_REQUESTED)
    times.discard_open_step()
    for mark in list(Mark)[1:]:
        times.mark(mark)
    assert times.take() == []


class Event:
    """As a CUDA event on a device that is `behind` the host, at the time of a fake clock."""

    now = FakeClock()
    behind = False
    waits = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        self.seconds = Event.now._now

    def query(self) -> bool:
        return not Event.behind

    def synchronize(self) -> None:
        Event.waits += 1

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.seconds - self.seconds)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StepTimes:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    Event.behind, Event.waits = False, 0
    times = StepTimes(Clock())
    times.begin(torch.device("cuda", 0))
    return times


def test_events_of_a_device_give_the_same_phases(device: StepTimes) -> None:
    step(device, Event.now)
    assert device.take() == [EXPECTED]


def test_a_device_is_waited_for_once_when_asked(device: StepTimes) -> None:
    for _ in range(3):
        step(device, Event.now)
    waits_before = Event.waits
    device.take()
    assert (waits_before, Event.waits) == (0, 1)


def test_few_events_are_kept_of_a_device_that_keeps_up(device: StepTimes) -> None:
    for _ in range(300):
        step(device, Event.now)
    assert len(device._ended) <= 64


def test_no_step_is_lost_of_a_device_that_is_behind(device: StepTimes) -> None:
    Event.behind = True
    for _ in range(300):
        step(device, Event.now)
    assert len(device.take()) == 300
