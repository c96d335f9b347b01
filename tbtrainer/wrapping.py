"""Wraps a method of one object for a while, or listens to what a model returns."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def wrapped_on_instance(instance: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Wraps the outermost method of an object, whatever its class overrides, while open.

    Args:
        instance: The object. The wrapped method is an attribute of the instance.
        name: The method's name. Nothing happens if there is no such method.
        wrapper: Is called with the method and its arguments, in place of the method.
    """
    method = getattr(instance, name, None)
    if method is None:
        yield
        return

    # A partial and not a closure: in a copy of the object, both methods are those of the copy.
    call = functools.update_wrapper(functools.partial(wrapper, method), method)
    attributes = vars(instance)
    before = attributes.get(name)
    attributes[name] = call
    try:
        yield
    finally:
        # Unless a callback has replaced the wrapper since.
        if attributes.get(name) is call:
            del attributes[name]
            if before is not None:
                attributes[name] = before


class OnlyOutput:
    """What a model returned, if it was called once.

    Attributes:
        value: `None` before the first call, and after a second one: then the model was given parts
            of a batch, or something else.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self._has_returned = False

    def listen(self, module: nn.Module, given: Any, returned: Any) -> None:
        """Takes note of one call. A forward hook."""
        self.value = None if self._has_returned else returned
        self._has_returned = True


@contextmanager
def only_output_of(model: Any) -> Iterator[OnlyOutput]:
    """Yields what gets the output of a model, while open.

    Args:
        model: A module. Nothing is seen of something else, and of a module that takes no hooks.
    """
    output = OnlyOutput()
    try:
        handle = model.register_forward_hook(output.listen)
    except (AttributeError, RuntimeError):  # No module; one of `torch.jit.script`.
        yield output
        return
    try:
        yield output
    finally:
        handle.remove()
