"""Guards the `add_*` methods of a `SummaryWriter`, and knows which of them were called."""

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.tensorboard import writer as torch_writer
from torch.utils.tensorboard.writer import SummaryWriter

_Writer = TypeVar("_Writer", bound=type[SummaryWriter])


def guard_add_methods(writer_class: _Writer) -> _Writer:
    """Class decorator: reports errors of the `add_*` methods to the writer's `Isolation`.

    Each method calls the one that the class defines. If the class defines none, it calls the one
    that the base class has *at the time of the call*. So a tool that replaces a method of torch's
    `SummaryWriter`, as SwanLab and MLflow do, also gets the calls of this class.

    The names of the methods that were called are added to the writer's set `called`.
    """
    source = inspect.getfile(writer_class)
    for name in dir(SummaryWriter):
        if name.startswith("add_"):
            own = vars(writer_class).get(name)
            setattr(writer_class, name, _guarded(writer_class, name, own, source))
    return writer_class


def is_replaced(name: str) -> bool:
    """Returns whether a tool has replaced a method of torch's `SummaryWriter`."""
    return getattr(getattr(SummaryWriter, name), "__globals__", None) is not vars(torch_writer)


def _guarded(
    writer_class: type[SummaryWriter], name: str, own: Callable[..., Any] | None, source: str
) -> Callable[..., Any]:
    @functools.wraps(own or getattr(SummaryWriter, name))
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            self.called.add(name)
            if self.all_writers is None:
                self._reopen()
            if own is not None:
                return own(self, *args, **kwargs)
            return getattr(super(writer_class, self), name)(*args, **kwargs)
        except Exception as error:
            self._isolation.report(f"write what {_caller(source)} gave to {name}", error)

    return call


def _caller(source: str) -> str:
    """Returns file and line of the innermost call from outside the modules of the writers.

    Args:
        source: File of the writer's class.
    """
    for frame, line in traceback.walk_stack(inspect.currentframe()):
        if frame.f_code.co_filename not in (__file__, source, torch_writer.__file__):
            return f"{frame.f_code.co_filename}:{line}"
    return "an unknown line"
