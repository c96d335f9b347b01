"""The counters of the run's writer as scalars."""

from tbtrainer import tags
from tbtrainer.event_file.record_queue import Counters
from tbtrainer.observers.record_counters import RecordCounters
from tbtrainer.records import Scalar


def test_each_counter_has_its_tag() -> None:
    observer = RecordCounters(lambda: Counters(written=7, pending=2, dropped=1))
    assert observer.logging_step(3) == [
        Scalar(tags.RECORDS_WRITTEN.name, 7),
        Scalar(tags.RECORDS_PENDING.name, 2),
        Scalar(tags.RECORDS_DROPPED.name, 1),
    ]


def test_counters_are_read_at_each_logging_step() -> None:
    counters = iter([Counters(written=1), Counters(written=5)])
    observer = RecordCounters(lambda: next(counters))
    written = [observer.logging_step(step)[0].value for step in (1, 2)]
    assert written == [1, 5]
