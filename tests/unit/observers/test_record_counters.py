"""The counters of the run's writer as scalars."""

from types import SimpleNamespace
from typing import Any

from tbtrainer import tags
from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.observers.record_counters import RecordCounters
from tbtrainer.records import Scalar


def run_with(counters: Counters) -> Any:
    """A run whose writer has these counters."""
    return SimpleNamespace(writer=SimpleNamespace(counters=counters))


def test_each_counter_has_its_tag() -> None:
    observer = RecordCounters(run_with(Counters(written=7, pending=2, dropped=1)))
    assert observer.logging_step(3) == [
        Scalar(tags.RECORDS_WRITTEN.name, 7),
        Scalar(tags.RECORDS_PENDING.name, 2),
        Scalar(tags.RECORDS_DROPPED.name, 1),
    ]


def test_counters_are_read_at_each_logging_step() -> None:
    run = run_with(Counters(written=1))
    observer = RecordCounters(run)
    before = observer.logging_step(1)[0].value
    run.writer.counters = Counters(written=5)
    written = [before, observer.logging_step(2)[0].value]
    assert written == [1, 5]
