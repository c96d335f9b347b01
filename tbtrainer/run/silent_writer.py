"""The `SummaryWriter` of ranks that do not write: its methods do nothing."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.tensorboard.writer import SummaryWriter

from tbtrainer.event_file.bounded_queue import Counters

_Writer = TypeVar("_Writer", bound=type[SummaryWriter])


def disable_public_methods(writer_class: _Writer) -> _Writer:
    """Class decorator: overrides every public method of torch's `SummaryWriter` to do nothing."""
    for name in dir(SummaryWriter):
        method = getattr(SummaryWriter, name)
        if not name.startswith("_") and callable(method):
            setattr(writer_class, name, _disabled(method))
    return writer_class


def _disabled(method: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(method)
    def do_nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    return do_nothing


@disable_public_methods
class SilentWriter(SummaryWriter):
    """A `SummaryWriter` whose methods do nothing, for all ranks except world rank zero.

    With it, code that writes to `trainer.writer` does not have to check the rank.
    """

    log_dir: Any = None
    counters = Counters()

    def __init__(self) -> None:
        """Does not open a file."""

    def write_summary(self, summary: Any, global_step: int | None = None) -> None:
        """Does nothing."""

    def flush(self, wait_seconds: float | None = None) -> None:
        """Does nothing."""

    def release(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        return None
