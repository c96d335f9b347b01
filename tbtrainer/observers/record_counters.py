"""Shows how many records have reached the event file."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tbtrainer import tags
from tbtrainer.observers.observer import Observer
from tbtrainer.records import Scalar

_TAGS = {
    "written": tags.RECORDS_WRITTEN,
    "pending": tags.RECORDS_PENDING,
    "dropped": tags.RECORDS_DROPPED,
}


class RecordCounters(Observer):
    """Shows how many records were written, are waiting, and were dropped since the process began.

    Args:
        counters: Returns the counters of the run's writer.
    """

    def __init__(self, counters: Callable[[], Any]) -> None:
        self._counters = counters

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the three counters."""
        counts = asdict(self._counters())
        return [Scalar(tag.name, counts[name]) for name, tag in _TAGS.items()]
