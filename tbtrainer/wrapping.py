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


@contextmanager
def outputs_of(model: Any) -> Iterator[list[Any]]:
    """Yields a list that gets what a model returns at each call, while open.

    Args:
        model: A module. The list stays empty if it is something else.
    """
    outputs: list[Any] = []

    def listen(module: nn.Module, given: Any, returned: Any) -> None:
        outputs.append(returned)

    if not isinstance(model, nn.Module):
        yield outputs
        return
    handle = model.register_forward_hook(listen)
    try:
        yield outputs
    finally:
        handle.remove()
