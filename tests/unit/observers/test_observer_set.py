"""Observers are asked at each moment, and what they return is written once, in order."""

import logging
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from tbtrainer import tags
from tbtrainer.isolation import Isolation
from tbtrainer.observers.background import Background
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.log_entries import LogEntries
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.overhead_fraction import OverheadFraction
from tbtrainer.records import Deferred, Record, Records, Scalar
from tests.limits import HANG_SECONDS

TRAINING: Any = SimpleNamespace()


class Door:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, Record]] = []

    def write(self, records: Iterable[Record], step: int) -> None:
        self.written.extend((step, record) for record in records)


class Steps(Observer):
    """Shows each step, and keeps the moments it was asked at."""

    def __init__(self, name: str = "step") -> None:
        self.name = name
        self.asked: list[str] = []

    def run_begins(self, step: int, training: Any) -> Records:
        self.asked.append("run_begins")
        return [Scalar(f"{self.name}/begins", step)]

    def gradients_ready(self, step: int, gradients: Gradients) -> Records:
        self.asked.append("gradients_ready")
        return ()

    def step_taken(self, step: int) -> Records:
        self.asked.append("step_taken")
        return [Scalar(f"{self.name}/taken", float(step))]

    def run_ends(self, step: int) -> Records:
        self.asked.append("run_ends")
        return [Scalar(f"{self.name}/ends", float(step))]

    def close(self) -> None:
        self.asked.append("close")


def broken(moment: str) -> Observer:
    def fail(self: Observer, *facts: Any) -> Records:
        raise RuntimeError("broken observer")

    kind: type[Observer] = type("BrokenObserver", (Observer,), {moment: fail})
    return kind()


def observer_set(*observers: Observer, writes: bool = True, action: str = "warn") -> Any:
    door = Door()
    return door, ObserverSet(
        observers, door.write, writes=writes, isolation=Isolation(action), clock=Clock()
    )


def test_records_are_written_at_the_step_of_their_moment() -> None:
    door, observers = observer_set(Steps())
    observers.run_begins(5, TRAINING)
    observers.step_taken(6)
    assert door.written == [(5, Scalar("step/begins", 5)), (6, Scalar("step/taken", 6.0))]


def test_observers_are_asked_in_the_order_they_were_added() -> None:
    door, observers = observer_set(Steps("first"))
    observers.add(Steps("second"))
    observers.run_begins(0, TRAINING)
    assert [record.tag for _, record in door.written] == ["first/begins", "second/begins"]


def test_a_step_that_ends_an_epoch_is_observed_once() -> None:
    _, observers = observer_set(steps := Steps())
    observers.run_begins(0, TRAINING)
    observers.step_taken(1)
    observers.step_taken(1)
    assert steps.asked == ["run_begins", "step_taken"]


def test_the_end_of_a_run_is_observed_once() -> None:
    _, observers = observer_set(steps := Steps())
    observers.run_begins(0, TRAINING)
    observers.run_ends(4)
    observers.run_ends(4)
    assert steps.asked == ["run_begins", "run_ends"]


def test_moments_of_a_training_are_silent_outside_of_one() -> None:
    door, observers = observer_set(steps := Steps())
    observers.step_taken(1)
    observers.run_ends(1)
    observers.close()
    assert (steps.asked, door.written) == ([], [])


def test_close_is_called_once_per_training() -> None:
    _, observers = observer_set(steps := Steps())
    observers.run_begins(0, TRAINING)
    observers.close()
    observers.close()
    assert steps.asked == ["run_begins", "close"]


def test_a_second_training_is_observed_from_its_first_step() -> None:
    _, observers = observer_set(steps := Steps())
    for _ in range(2):
        observers.run_begins(0, TRAINING)
        observers.step_taken(1)
        observers.close()
    assert steps.asked.count("step_taken") == 2


def test_gradients_are_due_once_per_step_of_a_training() -> None:
    _, observers = observer_set(Steps())
    assert not observers.gradients_are_due(1)
    observers.run_begins(0, TRAINING)
    assert observers.gradients_are_due(1)
    observers.gradients_ready(1, Gradients([], None))
    assert not observers.gradients_are_due(1)
    assert observers.gradients_are_due(2)


@pytest.mark.parametrize("moment", ["step_taken", "logging_step", "entry_logged", "run_ends"])
def test_an_error_of_one_observer_stops_no_other(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    door, observers = observer_set(broken(moment), Steps())
    with caplog.at_level(logging.WARNING):
        observers.run_begins(0, TRAINING)
        observers.step_taken(1)
        observers.logging_step(1)
        observers.entry_logged(1, {"loss": 1.0})
        observers.run_ends(1)
    assert [record.tag for _, record in door.written] == ["step/begins", "step/taken", "step/ends"]
    assert [r.getMessage().count("BrokenObserver") for r in caplog.records] == [1]


def test_an_observer_that_cannot_begin_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class CannotBegin(Steps):
        def run_begins(self, step: int, training: Any) -> Records:
            raise RuntimeError("no memory")

    _, observers = observer_set(left_out := CannotBegin(), steps := Steps())
    observers.run_begins(0, TRAINING)
    observers.step_taken(1)
    assert left_out.asked == []
    assert steps.asked == ["run_begins", "step_taken"]
    assert "is left out of this training" in caplog.text


def test_an_error_passes_when_errors_are_to_be_raised() -> None:
    _, observers = observer_set(broken("step_taken"), action="raise")
    observers.run_begins(0, TRAINING)
    with pytest.raises(RuntimeError, match="broken observer"):
        observers.step_taken(1)


def test_ranks_that_do_not_write_are_asked_and_write_nothing() -> None:
    class Later(Observer):
        def step_taken(self, step: int) -> Records:
            return [Scalar("now", 1.0), Deferred(lambda: pytest.fail("made on a silent rank"))]

    door, observers = observer_set(steps := Steps(), Later(), writes=False)
    observers.run_begins(0, TRAINING)
    observers.step_taken(1)
    observers.drain()
    assert steps.asked == ["run_begins", "step_taken"]
    assert door.written == []


def test_deferred_records_are_written_before_drain_returns() -> None:
    class Later(Observer):
        def step_taken(self, step: int) -> Records:
            return [Deferred(lambda: [Scalar("later", float(step))])]

    door, observers = observer_set(Later())
    observers.run_begins(0, TRAINING)
    for step in range(1, 11):
        observers.step_taken(step)
    observers.drain()
    assert door.written == [(step, Scalar("later", float(step))) for step in range(1, 11)]


def test_only_overridden_moments_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    _, observers = observer_set(Steps())
    observers.run_begins(0, TRAINING)
    monkeypatch.setattr(
        ObserverSet, "_call", lambda self, o, moment, *rest: asked.append(moment.__name__)
    )
    observers.logging_step(1)
    observers.micro_batch_taken(1, TRAINING)
    observers.step_taken(1)
    assert asked == ["step_taken"]


def test_what_is_no_observer_is_refused() -> None:
    _, observers = observer_set()
    with pytest.raises(TypeError, match="subclass of tbtrainer.Observer"):
        observers.add(print)


def test_the_time_of_observers_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(Observer):
        def step_taken(self, step: int) -> Records:
            now[0] += 1.0
            return ()

    clock = Clock()
    door = Door()
    observers = ObserverSet(
        [Slow(), OverheadFraction(clock)],
        door.write,
        writes=True,
        isolation=Isolation("raise"),
        clock=clock,
    )
    observers.run_begins(0, TRAINING)
    now[0] += 3.0
    observers.step_taken(1)
    observers.logging_step(1)
    assert door.written == [(1, Scalar(tags.OVERHEAD_FRACTION.name, 0.25))]


def test_scalars_are_shown_where_the_training_cannot_be_described() -> None:
    door, observers = observer_set(LogEntries(), steps := Steps())
    observers.run_begins(0, None)
    observers.entry_logged(1, {"loss": 0.5})
    observers.step_taken(1)
    assert door.written == [(1, Scalar("train/loss", 0.5))]
    assert steps.asked == []


def test_a_limited_wait_leaves_slow_records_to_the_thread() -> None:
    written: list[Any] = []
    go_on = threading.Event()

    def slow() -> list[Scalar]:
        go_on.wait(HANG_SECONDS)
        return [Scalar("a", 1.0)]

    background = Background(lambda records, step: written.extend(records), Isolation("raise"))
    background.submit(slow, 3, "draw")
    background.drain(0.01)
    assert written == []
    go_on.set()
    background.drain()
    assert written == [Scalar("a", 1.0)]
    background.close()
