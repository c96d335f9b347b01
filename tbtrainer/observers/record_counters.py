"""Shows how many records have reached the event file."""

from dataclasses import asdict

from tbtrainer import tags
from tbtrainer.observers.observer import Observer
from tbtrainer.records import Scalar
from tbtrainer.run import RunSession

_TAGS = {
    "written": tags.RECORDS_WRITTEN,
    "pending": tags.RECORDS_PENDING,
    "dropped": tags.RECORDS_DROPPED,
}


class RecordCounters(Observer):
    """Shows how many records of the run this process has written, keeps waiting, and dropped.

    Args:
        run: Its present writer counts them.
    """

    def __init__(self, run: RunSession) -> None:
        self._run = run

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the three counters."""
        counts = asdict(self._run.writer.counters)
        return [Scalar(tag.name, counts[name]) for name, tag in _TAGS.items()]
