"""Records that are made in a thread beside the training."""

import contextvars
import logging
import threading
from collections.abc import Iterable

import pytest

from tbtrainer.isolation import Isolation
from tbtrainer.observers.background import Background
from tbtrainer.records import Record, Scalar
from tests.limits import HANG_SECONDS


class Written:
    """Keeps what is written, with its step and the thread that wrote it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.threads: set[str] = set()

    def write(self, records: Iterable[Record], step: int) -> None:
        self.steps += [step for _ in records]
        self.threads.add(threading.current_thread().name)


def one_record() -> list[Scalar]:
    return [Scalar("a", 1.0)]


def fails() -> list[Scalar]:
    raise RuntimeError("no memory")


def test_records_are_written_in_order_by_another_thread() -> None:
    written = Written()
    background = Background(written.write, Isolation("raise"))
    for step in range(20):
        background.submit(one_record, step, "test")
    background.drain()
    assert written.steps == list(range(20))
    assert threading.current_thread().name not in written.threads
    background.close()


def test_a_full_backlog_waits_for_its_oldest_task() -> None:
    written = Written()
    background = Background(written.write, Isolation("raise"))
    may_finish, submitted = threading.Event(), threading.Event()

    def waits() -> list[Scalar]:
        may_finish.wait(HANG_SECONDS)
        return one_record()

    def submit_all() -> None:
        for step in range(5):
            background.submit(waits, step, "test")
        submitted.set()

    submitter = threading.Thread(target=submit_all)
    submitter.start()
    # The thread holds the first task, so the fifth cannot be queued before it is done.
    assert not submitted.wait(0.05)
    may_finish.set()
    submitter.join(HANG_SECONDS)
    assert submitted.is_set()
    background.close()
    assert written.steps == list(range(5))


def test_an_error_of_a_task_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    written = Written()
    background = Background(written.write, Isolation("warn"))
    with caplog.at_level(logging.WARNING):
        background.submit(fails, 1, "make the histograms")
        background.submit(one_record, 2, "make the histograms")
        background.close()
    assert written.steps == [2]
    assert "could not make the histograms: RuntimeError: no memory" in caplog.text


def test_drain_raises_an_error_where_errors_end_the_training() -> None:
    background = Background(Written().write, Isolation("raise"))
    background.submit(fails, 1, "test")
    with pytest.raises(RuntimeError, match="no memory"):
        background.drain()
    background.close()


def test_a_task_after_close_starts_the_thread_again() -> None:
    written = Written()
    background = Background(written.write, Isolation("raise"))
    background.submit(one_record, 1, "test")
    background.close()
    background.submit(one_record, 2, "test")
    background.close()
    assert written.steps == [1, 2]


def test_a_task_runs_in_the_context_of_its_caller() -> None:
    current_run: contextvars.ContextVar[str] = contextvars.ContextVar("current_run", default="none")
    seen: list[str] = []

    def make() -> Iterable[Record]:
        seen.append(current_run.get())
        return ()

    background = Background(lambda records, step: None, Isolation("raise"))
    for run in ("first", "second"):
        current_run.set(run)
        background.submit(make, 1, "make")
    background.close()
    assert seen == ["first", "second"]
