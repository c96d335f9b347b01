"""From the queue to the file: a thread that writes and tries again, waited for within limits."""

import atexit
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable

from tbtrainer.event_file.fault_report import FaultReport
from tbtrainer.event_file.local_file import Appended, EventFile, LocalEventFile
from tbtrainer.event_file.record_queue import Counters, RecordQueue
from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)

# A log call waits this long for the disk, and not at all while a fault lasts.
FLUSH_SECONDS = 0.05
# Nor after three writes in a row that took longer than this.
_SLOW_SECONDS, _SLOW_WRITES = 0.01, 3
# A checkpoint waits this long. A disk that has not answered for so long is not waited for, so that
# one that hangs costs a training less than two seconds.
SETTLE_SECONDS = 0.8
# The end of a run waits this long on a disk that is slow but answers.
CLOSE_SECONDS = 10.0
# Between two tries, doubling from the first to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_BATCH_BYTES = 2**18


class Delivery:
    """Delivers the records of one run to its event file, whatever the disk does.

    Args:
        file: Where records go.
        run: Name of the run, for its directory in the fallback.
        place: The run directory, as it may be shown.
        queue_bytes: The most bytes of records that wait.
        fallback: Where a file is begun when the directory cannot be written to at the end; `None`
            for a new directory among the system's temporary files.
    """

    def __init__(
        self, file: EventFile, run: str, place: str, queue_bytes: int, fallback: str | None
    ) -> None:
        self._file = file
        self._run_name, self._fallback = run, fallback
        self._queue_bytes = queue_bytes
        self._newest_step = 0
        self._changed = threading.Condition(threading.RLock())
        self._queue = RecordQueue(queue_bytes)
        self._thread: threading.Thread | None = None
        self._closing = self._sync_wanted = self._hurry = False
        self._report = FaultReport(place, queue_bytes)
        self._fault: Exception | None = None
        # When the write that is going on began, and when the next may begin.
        self._busy_since: float | None = None
        self._next_write = 0.0
        self._slow_writes = 0
        # A flush ran out of time, and nothing has been written since.
        self._tired_of_waiting = False

    @property
    def counters(self) -> Counters:
        """What became of the records so far."""
        with self._changed:
            return self._queue.counters

    @property
    def fault(self) -> Exception | None:
        """What keeps records from being written now."""
        return self._fault

    def put(self, record: bytes, is_scalar: bool, newest_step: int) -> None:
        """Takes a record; see `EventFileWriter.add_event`."""
        with self._changed:
            if self._thread is None:
                self._start()
            if not self._queue.has_room(record):
                self._wait_while(lambda: not self._queue.has_room(record), self._patience())
            self._newest_step = newest_step
            self._queue.put(record, is_scalar)
            self._changed.notify_all()
        # Never under the lock: a handler of log messages may write to the run.
        self._report.note_silence(self._busy_since)

    def flush(self, seconds: float | None, sync: bool) -> bool:
        """Waits until everything is delivered; see `EventFileWriter.flush`."""
        with self._changed:
            if seconds is not None and self._queue:
                self._hurry = True
            if sync and self._thread is not None:
                self._sync_wanted = True
            self._changed.notify_all()
            self._wait_while(self._is_unsettled, self._patience() if seconds is None else seconds)
            return not self._queue

    def begin_close(self) -> None:
        """Lets the thread write what is left, close the file and end."""
        with self._changed:
            starts = self._thread is None and len(self._queue) > 0
            self._closing = starts or self._thread is not None
            self._changed.notify_all()
        if starts:  # Python starts no more threads when the interpreter ends.
            self._run()

    def await_close(self, seconds: float) -> None:
        """Waits until it has, or until the disk has not answered for a second."""
        with self._changed:
            deadline = time.monotonic() + seconds
            while self._thread is not None and not self._is_hung():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                # A disk that hangs from now on wakes nobody.
                self._changed.wait(min(remaining, SETTLE_SECONDS / 4))
            left = self._queue.counters if self._thread is not None else Counters()
        self._report.note_unanswered(left)

    # ---- Waiting ----

    def _is_unsettled(self) -> bool:
        return self._thread is not None and (len(self._queue) > 0 or self._sync_wanted)

    def _is_hung(self) -> bool:
        busy = self._busy_since
        return busy is not None and time.monotonic() - busy > self._file.seconds_until_hung

    def _patience(self) -> float:
        """Seconds that a log call waits."""
        if self._tired_of_waiting or self._slow_writes >= _SLOW_WRITES:
            return 0.0
        return 0.0 if self._file.seconds_between_appends else FLUSH_SECONDS

    def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits while something holds, but not on a fault or a disk that does not answer."""
        deadline = time.monotonic() + seconds
        while condition() and self._fault is None and not self._is_hung():
            remaining = deadline - time.monotonic()
            if self._busy_since is not None:
                hung_at = self._busy_since + self._file.seconds_until_hung
                remaining = min(remaining, hung_at - time.monotonic())
            if remaining <= 0:
                self._tired_of_waiting = True
                return
            self._changed.wait(remaining)

    # ---- The thread ----

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tbtrainer-event-file", daemon=True)
        try:
            self._thread.start()
            _at_work.add(self)
        except RuntimeError:  # The interpreter ends, or has no more threads: a later call tries.
            self._thread = None

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while (batch := self._next_batch()) is not None:
            appended = self._appended(batch)
            self._settle(appended)
            if appended.fault is None:
                pause = _FIRST_PAUSE
            elif self._closing:
                self._save_elsewhere()
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _next_batch(self) -> list[bytes] | None:
        """Waits for records. `None`: the file is closed and the thread shall end."""
        while True:
            with self._changed:
                while (seconds := self._seconds_until_due()) != 0.0:
                    self._changed.wait(seconds)
                if self._queue:
                    self._busy_since = time.monotonic()
                    return self._queue.take(_BATCH_BYTES)
                self._busy_since = time.monotonic()
            self._sync()
            if self._closing and self._ended():
                return None

    def _seconds_until_due(self) -> float | None:
        """Until there is something to do; `None` if nothing is known to come."""
        if self._closing or self._sync_wanted or (self._queue and self._hurry):
            return 0.0
        return max(0.0, self._next_write - time.monotonic()) if self._queue else None

    def _appended(self, batch: list[bytes]) -> Appended:
        try:
            return self._file.append(batch, self._newest_step)
        except Exception as error:  # A thread that died would keep records for ever.
            return Appended(0, error)

    def _settle(self, appended: Appended) -> None:
        with self._changed:
            now = time.monotonic()
            if appended.fault is None:
                slow = now - (self._busy_since or now) > _SLOW_SECONDS
                self._slow_writes = self._slow_writes + 1 if slow else 0
                self._next_write = now + self._file.seconds_between_appends
                self._tired_of_waiting = False
            self._busy_since = None
            self._fault = appended.fault
            self._queue.settle(appended.records)
            self._hurry = self._hurry and len(self._queue) > 0
            counters = self._queue.counters
            self._changed.notify_all()
        self._report.note(appended.fault, counters)

    def _sync(self) -> None:
        try:
            if self._sync_wanted:
                self._file.sync()
        except OSError as error:
            where, why = redacted_text(str(self._file.path)), redacted_text(str(error))
            logger.warning("%s was not forced to the disk: %s.", where, why)
        with self._changed:
            self._sync_wanted = False
            self._busy_since = None
            self._changed.notify_all()

    def _ended(self) -> bool:
        self._file.release()
        with self._changed:
            if self._queue:
                return False
            self._thread, self._closing = None, False
            _at_work.discard(self)
            self._changed.notify_all()
            return True

    def _save_elsewhere(self) -> None:
        """Writes what the run directory did not take to a file that a warning names."""
        file: EventFile | None = None
        with self._changed:
            waiting = len(self._queue)
            batch = self._queue.take(2 * self._queue_bytes)
            self._busy_since = time.monotonic()
        try:
            # A directory of our own: a name that others can foresee is theirs to spoil.
            directory = self._fallback or tempfile.mkdtemp(prefix="tbtrainer-")
            file = LocalEventFile(os.path.join(directory, self._run_name), self._newest_step + 1)
            appended = file.append(batch, self._newest_step)
        except OSError as error:
            appended = Appended(0, error)
        with self._changed:
            self._busy_since = None
            self._queue.settle(appended.records)
            if appended.fault is not None:
                self._queue.drop_all()
            self._fault = None
            self._changed.notify_all()
        if file is not None:
            file.release()
        self._report.note_saved_elsewhere(
            appended.records, waiting, file.path if file else None, appended.fault
        )


def close_all(deliveries: Iterable[Delivery]) -> None:
    """Closes event files at the same time, so that a hung disk is waited for once."""
    deliveries = list(deliveries)
    deadline = time.monotonic() + CLOSE_SECONDS
    for delivery in deliveries:
        delivery.begin_close()
    for delivery in deliveries:
        delivery.await_close(deadline - time.monotonic())


# Those with a thread, which a writer that nobody holds any more leaves behind.
_at_work: set[Delivery] = set()
# A forked child has no such thread: what waits is its parent's to write.
os.register_at_fork(after_in_child=_at_work.clear)


@atexit.register
def _close_what_is_open() -> None:
    close_all(_at_work)
