"""Methods of a mixin that show the signature and documentation of the methods they extend."""

import functools
from types import FunctionType
from typing import Any


def show_extended_signatures(mixin: type, cls: type) -> None:
    """Makes `help`, completion and `inspect.signature` show what the methods of a mixin extend.

    For each method of `mixin` that `cls` inherits, `cls` gets a method that calls the next one in
    the class order. It has the signature and the documentation of the method that `mixin` extends
    in `cls`. A class whose base class shows the right one already, or that defines the method
    itself, stays as it is.

    Args:
        mixin: Its methods take `*args` and `**kwargs`, because they extend methods of many classes.
        cls: A subclass of `mixin`.
    """
    for name, method in vars(mixin).items():
        extended = getattr(super(mixin, cls), name, None)
        if not (isinstance(method, FunctionType) and isinstance(extended, FunctionType)):
            continue
        inherited: Any = getattr(cls, name)
        shown = getattr(inherited, "_shown", None)
        if inherited is method or (shown is not None and shown is not extended):
            setattr(cls, name, _calling_next(cls, name, extended))


def _calling_next(cls: type, name: str, shown: Any) -> Any:
    @functools.wraps(shown)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Whatever comes next for this object: with several base classes, also another's method.
        return getattr(super(cls, self), name)(*args, **kwargs)

    call._shown = shown  # type: ignore[attr-defined]
    return call
