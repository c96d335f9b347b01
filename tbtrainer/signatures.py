"""Methods of a mixin that show the signature and documentation of the methods they extend."""

import functools
from types import FunctionType
from typing import Any


def show_extended_signatures(mixin: type, cls: type) -> None:
    """Makes `help`, completion and `inspect.signature` show what the methods of a mixin extend.

    For each method of `mixin` that `cls` inherits, `cls` gets a method that calls it. That method
    has the signature and the documentation of the one that is called through `super()`. Methods
    that `cls` defines itself stay as they are.

    Args:
        mixin: Its methods take `*args` and `**kwargs`, because they extend methods of many classes.
        cls: A subclass of `mixin`.
    """
    for name, method in vars(mixin).items():
        extended = getattr(super(mixin, cls), name, None)
        if isinstance(method, FunctionType) and isinstance(extended, FunctionType):
            inherited = getattr(cls, name)
            if getattr(inherited, "_extension", inherited) is method:
                setattr(cls, name, _extending(extended, method))


def _extending(extended: FunctionType, method: FunctionType) -> FunctionType:
    @functools.wraps(extended)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    call._extension = method  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
