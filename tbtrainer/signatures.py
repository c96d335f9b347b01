"""Methods of a mixin that show the signature and documentation of the methods they extend."""

import functools
from types import FunctionType
from typing import Any


def show_extended_signatures(mixin: type, cls: type) -> None:
    """Makes `help`, completion and `inspect.signature` show what the methods of a mixin extend.

    For each method of `mixin` that `cls` inherits, `cls` gets a method that calls the next one in
    the class order. It has the signature and the documentation of the method that `mixin` extends.
    Methods that `cls` defines itself stay as they are, and so do the subclasses of `cls`.

    Args:
        mixin: Its methods take `*args` and `**kwargs`, because they extend methods of many classes.
        cls: A class that names `mixin` among its bases; for others nothing is done.
    """
    if mixin not in cls.__bases__:
        return
    for name, method in vars(mixin).items():
        extended = getattr(super(mixin, cls), name, None)
        is_extension = isinstance(method, FunctionType) and isinstance(extended, FunctionType)
        if is_extension and getattr(cls, name) is method:
            setattr(cls, name, _calling_next(cls, name, extended))


def _calling_next(cls: type, name: str, documented: Any) -> Any:
    @functools.wraps(documented)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Whatever comes next for this object: with several bases, another class's method.
        return getattr(super(cls, self), name)(*args, **kwargs)

    return call
