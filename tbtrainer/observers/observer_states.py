"""What observers keep over a resume, in each checkpoint."""

from collections.abc import Iterable, Mapping
from typing import Any

from tbtrainer.isolation import Isolation
from tbtrainer.observers.observer import Observer


def states_of(observers: Iterable[Observer], isolation: Isolation) -> dict[str, Any]:
    """Returns the states of the observers that have one, by the name of their class.

    Args:
        observers: Of several observers of one class, only the first one is asked.
        isolation: What happens to an error of an observer.
    """
    states: dict[str, Any] = {}
    asked: set[str] = set()
    for observer in observers:
        name = type(observer).__qualname__
        # Also if the first one had no state: the state of the second would be loaded into it.
        if type(observer).state is not Observer.state and name not in asked:
            asked.add(name)
            with isolation.guard(f"store the state of {name}"):
                state = observer.state()
                if state is not None:
                    states[name] = state
    return states


def load_states(
    observers: Iterable[Observer], states: Mapping[str, Any], isolation: Isolation
) -> None:
    """Gives the observers the states that `states_of` returned.

    Args:
        observers: Of several observers of one class, the first one gets the state.
        states: By the name of the class.
        isolation: What happens to an error of an observer.
    """
    waiting = dict(states)
    for observer in observers:
        name = type(observer).__qualname__
        if type(observer).load_state is not Observer.load_state and name in waiting:
            with isolation.guard(f"load the state of {name}"):
                observer.load_state(waiting.pop(name))
