"""What observers keep over a resume: by the name of the class, each checked and isolated."""

from typing import Any

import pytest

from tbtrainer import Observer
from tbtrainer.isolation import Isolation
from tbtrainer.observers.observer_states import load_states, states_of


class Counts(Observer):
    """Has a state."""

    def __init__(self, count: Any) -> None:
        self.count = count

    def state(self) -> dict[str, Any] | None:
        return None if self.count is None else {"count": self.count}

    def load_state(self, state: Any) -> None:
        self.count = state["count"]


class MoreCounts(Counts):
    """Has the state of its parent class, under its own name."""


class Broken(Observer):
    """Fails to give its state, and to take it."""

    def state(self) -> dict[str, Any] | None:
        raise RuntimeError("no state")

    def load_state(self, state: Any) -> None:
        raise RuntimeError("no such state")


class Plain(Observer):
    """Has no state."""


WARNS = Isolation("warn")


def test_states_are_stored_by_class() -> None:
    observers = [Plain(), Counts(1), MoreCounts(2)]
    assert states_of(observers, WARNS) == {"Counts": {"count": 1}, "MoreCounts": {"count": 2}}


def test_states_come_back_to_their_observers() -> None:
    saved = [Counts(1), MoreCounts(2)]
    loaded = [MoreCounts(0), Plain(), Counts(0)]
    load_states(loaded, states_of(saved, WARNS), WARNS)
    assert [o.count for o in loaded if isinstance(o, Counts)] == [2, 1]


def test_of_two_observers_of_a_class_the_first_counts() -> None:
    states = states_of([Counts(1), Counts(2)], WARNS)
    loaded = [Counts(0), Counts(0)]
    load_states(loaded, states, WARNS)
    assert [observer.count for observer in loaded] == [1, 0]


def test_a_first_observer_without_a_state_gets_no_other() -> None:
    assert states_of([Counts(None), Counts(2)], WARNS) == {}


def test_an_error_in_a_state_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    states = states_of([Broken(), Counts(1)], Isolation("warn"))
    assert states == {"Counts": {"count": 1}}
    (message,) = caplog.messages
    assert "store the state of Broken: RuntimeError: no state" in message


def test_a_state_that_is_refused_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    loaded = Counts(0)
    states = {"Broken": {}, "Counts": {"count": 5}}
    load_states([Broken(), loaded], states, Isolation("warn"))
    assert loaded.count == 5
    (message,) = caplog.messages
    assert "load the state of Broken" in message


def test_an_error_is_raised_if_the_user_wants_it() -> None:
    with pytest.raises(RuntimeError, match="no state"):
        states_of([Broken()], Isolation("raise"))


def test_states_of_unknown_observers_are_left_alone() -> None:
    loaded = Counts(7)
    load_states([loaded], {"Gone": {"count": 1}}, Isolation("raise"))
    assert loaded.count == 7
