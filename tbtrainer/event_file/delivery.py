"""Writes queued records to the event file, in a thread that retries after faults of the disk."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.event_file import Appended, EventFile
from tbtrainer.event_file.fallback import FallbackFile
from tbtrainer.event_file.fault_report import FaultReport
from tbtrainer.event_file.record_queue import RecordQueue
from tbtrainer.event_file.waiting import CLOSE_SECONDS, WaitingPolicy
from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)

# Seconds between two tries. They double with each failure, from the first value to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_BATCH_BYTES = 2**18


class Delivery:
    """Writes the records of one run to its event file, with a thread of its own.

    Faults of the disk are logged and retried. They are never raised.

    Args:
        file: The event file.
        fallback: The file for the records that the event file does not take before it is closed.
        place: The run directory without secrets, for warnings.
        queue_bytes: The most bytes of records that wait in the queue.
    """

    def __init__(
        self, file: EventFile, fallback: FallbackFile, place: str, queue_bytes: int
    ) -> None:
        self._file, self._fallback = file, fallback
        self._queue_bytes = queue_bytes
        self._queue = RecordQueue(queue_bytes)
        self._report = FaultReport(place, queue_bytes)
        self._waiting = WaitingPolicy(file.hung_after_seconds, file.seconds_between_appends)
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None
        # Requests to the thread. Records with a number below `_write_before` are written without
        # delay. Records that are put after a request do not delay its end.
        self._write_before = 0
        self._sync_wanted = self._close_wanted = False

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped so far."""
        with self._changed:
            return self._queue.counters

    @property
    def fault(self) -> Exception | None:
        """Why the last append failed, or `None`."""
        return self._fault

    def put(self, record: bytes, is_scalar: bool) -> None:
        """Adds a record to the queue; see `EventFileWriter.add_event`."""
        with self._changed:
            if not self._queue.has_room(record):
                is_oversized = self._queue.is_oversized(record)
                seconds = (
                    self._waiting.room_seconds() if is_oversized else self._waiting.log_seconds()
                )
                self._wait_without_fault(lambda: not self._queue.has_room(record), seconds)
            self._queue.put(record, is_scalar)
            self._start_if_needed()
            dropped = self._queue.counters if self._queue.has_dropped else None
            busy_since = self._waiting.busy_since
            self._changed.notify_all()
        # Outside the lock: a handler of log messages may write to the run, which takes the lock.
        if dropped is not None:
            self._report.note_dropped(dropped)
        if busy_since is not None:
            self._report.note_silence(busy_since)

    def flush(self, seconds: float | None, sync: bool) -> bool:
        """Waits until the records added so far are written; see `EventFileWriter.flush`."""
        with self._changed:
            self._start_if_needed()
            end = self._queue.put_count
            if seconds is not None:
                self._write_before = end
            if sync and self._thread is not None:
                self._sync_wanted = True
            self._changed.notify_all()
            self._wait_without_fault(
                lambda: (
                    self._thread is not None
                    and (self._queue.waits_before(end) or self._sync_wanted)
                ),
                self._waiting.log_seconds() if seconds is None else seconds,
            )
            return not self._queue.waits_before(end)

    def close(self, seconds: float) -> bool:
        """Writes the records added so far and closes the file. Ends the thread if no others wait.

        Args:
            seconds: The longest wait; 0 requests the close without waiting for it.

        Returns:
            Whether the file is closed.
        """
        with self._changed:
            self._start_if_needed()
            # While the interpreter ends, Python starts no threads: this thread writes instead.
            must_write_here = self._thread is None and len(self._queue) > 0
            if must_write_here:
                self._thread = threading.current_thread()
            if self._thread is not None:
                self._close_wanted = True
                self._write_before = self._queue.put_count
                self._changed.notify_all()
        if must_write_here:
            self._run()
        with self._changed:
            self._wait_while(lambda: self._close_wanted, seconds)
            return not self._close_wanted

    def report_close(self, is_closed: bool) -> None:
        """Logs which records were dropped or are not written when a close ends."""
        with self._changed:
            counters, is_hung = self._queue.counters, self._waiting.is_hung
        self._report.note_closed(counters)
        if not is_closed:
            self._report.note_unwritten(counters, is_hung, CLOSE_SECONDS)

    def _wait_without_fault(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits while a condition holds. Ends early during a fault, or when the disk hangs."""
        self._wait_while(lambda: condition() and self._fault is None, seconds)
        if condition() and self._fault is None:
            self._waiting.note_timeout()

    def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits while a condition holds. Ends early when the disk hangs."""
        deadline = time.monotonic() + seconds
        while condition():
            remaining = min(deadline - time.monotonic(), self._waiting.seconds_until_hung())
            if remaining <= 0:
                return
            self._changed.wait(remaining)

    # ---- The thread ----

    def _start_if_needed(self) -> None:
        """Starts the thread if records wait and it is not running."""
        if self._thread is not None or not self._queue:
            return
        self._thread = threading.Thread(target=self._run, name="tbtrainer-event-file", daemon=True)
        try:
            self._thread.start()
            _running.add(self)
        except RuntimeError:  # The interpreter ends, or no more threads can be started now.
            self._thread = None

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            batch = self._next_batch()
            if not batch:
                self._sync()
                if self._has_ended():
                    return
                continue
            appended = self._append(batch)
            self._confirm(appended)
            if appended.fault is None:
                pause = _FIRST_PAUSE
            elif self._close_wanted:
                self._save_elsewhere()
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._close_wanted, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _next_batch(self) -> list[bytes]:
        """Waits for work. Returns the records to write; none if it is to sync or close the file."""
        with self._changed:
            while (seconds := self._seconds_until_due()) != 0.0:
                self._changed.wait(seconds)
            self._begin_call()
            is_urgent = self._queue.waits_before(self._write_before)
            if (self._sync_wanted or self._close_wanted) and not is_urgent:
                return []
            return self._queue.take(_BATCH_BYTES)

    def _seconds_until_due(self) -> float | None:
        """Returns the seconds until there is work; `None` if no work is planned."""
        is_urgent = self._queue.waits_before(self._write_before)
        if self._close_wanted or self._sync_wanted or is_urgent:
            return 0.0
        return self._waiting.seconds_until_append() if self._queue else None

    def _begin_call(self) -> None:
        """Records that a call of the disk begins. Waiting callers compute their limit anew."""
        self._waiting.begin_call()
        self._changed.notify_all()

    def _append(self, batch: list[bytes]) -> Appended:
        try:
            return self._file.append(batch)
        except Exception as error:  # The thread must not end: later records would not be written.
            return Appended(0, error)

    def _confirm(self, appended: Appended) -> None:
        with self._changed:
            self._waiting.end_append(succeeded=appended.fault is None)
            self._fault = appended.fault
            self._queue.confirm(appended.records)
            counters = self._queue.counters
            self._changed.notify_all()
        if appended.lost_file is not None:
            self._report.note_lost_file(appended.lost_file)
        self._report.note_append(appended.fault, counters)

    def _sync(self) -> None:
        error: Exception | None = None
        try:
            if self._sync_wanted:
                self._file.sync()
        except Exception as raised:
            error = raised
        with self._changed:
            self._sync_wanted = False
            self._waiting.end_call()
            self._changed.notify_all()
        if error is not None:
            self._report.note_unsynced(self._file.path, error)

    def _has_ended(self) -> bool:
        """Closes the file if that was requested. Returns whether the thread ends."""
        if not self._close_wanted:
            return False
        with self._changed:
            self._begin_call()
        try:
            self._file.close()
        except Exception as error:
            logger.debug("The event file could not be closed: %s.", redacted_text(str(error)))
        with self._changed:
            self._waiting.end_call()
            self._changed.notify_all()
            # While the file was being closed, a record and another request may have been added.
            if self._queue.waits_before(self._write_before):
                return False
            self._close_wanted = False
            if self._queue:  # Other threads have added records.
                return False
            self._thread = None
            _running.discard(self)
            return True

    def _save_elsewhere(self) -> None:
        """Writes the records that the event file did not take to the fallback file."""
        with self._changed:
            waiting = len(self._queue)
            batch = self._queue.take(2 * self._queue_bytes)
            self._begin_call()
        appended = self._fallback.append(batch)
        with self._changed:
            self._waiting.end_call()
            self._queue.confirm(appended.records)
            if appended.fault is not None:
                self._queue.drop_all()
            self._fault = None
            self._changed.notify_all()
        self._report.note_saved_elsewhere(appended.records, waiting, self._fallback, appended.fault)


def close_all(deliveries: Iterable[Delivery]) -> None:
    """Closes event files at the same time, so that one limit holds for all of them together."""
    deliveries = list(deliveries)
    deadline = time.monotonic() + CLOSE_SECONDS
    for delivery in deliveries:
        delivery.close(0.0)
    for delivery in deliveries:
        is_closed = delivery.close(max(0.0, deadline - time.monotonic()))
        delivery.report_close(is_closed)


# Deliveries with a running thread. They are closed at exit, also if their writer was deleted.
_running: set[Delivery] = set()
# A forked child does not have these threads. Its parent writes the records that wait.
os.register_at_fork(after_in_child=_running.clear)


@atexit.register
def _close_at_exit() -> None:
    close_all(_running)
