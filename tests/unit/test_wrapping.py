"""A method of one object is wrapped for a while, and restored."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tbtrainer.wrapping import only_output_of, wrapped_on_instance


class Counter:
    """Has a method to be wrapped."""

    def add(self, number: int, times: int = 1) -> int:
        """Adds."""
        return number + times


def doubled(method: Callable[..., int], *args: Any, **kwargs: Any) -> int:
    return 2 * method(*args, **kwargs)


def test_the_wrapper_is_called_in_place_of_the_method() -> None:
    counter, other = Counter(), Counter()
    with wrapped_on_instance(counter, "add", doubled):
        assert counter.add(1, times=2) == 6
        assert other.add(1) == 2
    assert counter.add(1) == 2


def test_the_method_keeps_its_signature() -> None:
    counter = Counter()
    before = inspect.signature(counter.add)
    with wrapped_on_instance(counter, "add", doubled):
        assert inspect.signature(counter.add) == before


def test_the_instance_is_as_before_after_an_error() -> None:
    counter = Counter()
    with pytest.raises(KeyError), wrapped_on_instance(counter, "add", doubled):
        raise KeyError
    assert vars(counter) == {}


def test_a_method_of_the_instance_is_restored() -> None:
    counter = Counter()

    def own(number: int) -> int:
        return number + 100

    counter.add = own
    with wrapped_on_instance(counter, "add", doubled):
        assert counter.add(1) == 202
    assert vars(counter) == {"add": own}


class Wrapping(Counter):
    """Wraps its own method, as a trainer's telemetry does."""

    def __init__(self) -> None:
        self.calls = 0

    def counted(self, method: Callable[..., int], *args: Any, **kwargs: Any) -> int:
        self.calls += 1
        return method(*args, **kwargs)


def test_a_copy_calls_its_own_method_and_wrapper() -> None:
    original = Wrapping()
    with wrapped_on_instance(original, "add", original.counted):
        copied = copy.deepcopy(original)
        assert vars(copied)["add"].args[0].__self__ is copied
        assert copied.add(1) == 2
    assert (copied.calls, original.calls) == (1, 0)


def test_wrappers_inside_each_other_are_both_called() -> None:
    counter = Counter()
    with wrapped_on_instance(counter, "add", doubled):
        with wrapped_on_instance(counter, "add", doubled):
            assert counter.add(1) == 8
        assert counter.add(1) == 4
    assert vars(counter) == {}


def test_what_replaced_the_wrapper_meanwhile_stays() -> None:
    counter = Counter()

    def own(number: int) -> int:
        return number + 100

    with wrapped_on_instance(counter, "add", doubled):
        counter.add = own
    assert counter.add(1) == 101


def test_a_method_that_does_not_exist_is_no_error() -> None:
    counter = Counter()
    with wrapped_on_instance(counter, "subtract", doubled):
        assert not hasattr(counter, "subtract")


def test_the_output_of_a_model_is_seen() -> None:
    model = torch.nn.Linear(2, 2)
    with only_output_of(model) as output:
        returned = model(torch.ones(1, 2))
    assert output.value is returned
    assert not model._forward_hooks


def test_a_model_that_is_called_twice_has_no_output() -> None:
    model = torch.nn.Linear(2, 2)
    with only_output_of(model) as output:
        for _ in range(3):
            model(torch.ones(1, 2))
            seen = output.value
        assert seen is None


@pytest.mark.parametrize(
    "model", [None, torch.jit.script(torch.nn.Linear(2, 2))], ids=["none", "scripted"]
)
def test_what_takes_no_hook_is_not_seen(model: Any) -> None:
    with only_output_of(model) as output:
        if model is not None:
            model(torch.ones(1, 2))
    assert output.value is None
