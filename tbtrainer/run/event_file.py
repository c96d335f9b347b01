"""The event file: records from a bounded queue, written by a thread that no fault reaches past.

An implementation of the interface of tensorboard's `EventFileWriter`. Adding a record never waits
for the disk and never raises. What cannot be written is kept and tried again; when the queue is
full, the oldest records that are not scalars go first, and are counted.
"""

import atexit
import logging
import os
import tempfile
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from tbtrainer.run.directory import next_event_file
from tbtrainer.run.records import framed

logger = logging.getLogger(__name__)

QUEUE_BYTES = 64 * 2**20
# A log call waits this long for the disk, and not at all while a fault lasts.
FLUSH_SECONDS = 0.05
_SLOW_SECONDS = 0.01
# The end of a run, and a checkpoint, wait this long.
CLOSE_SECONDS = 1.0
# Between two tries, doubling from the first to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_BATCH_BYTES = 2**20

# The one system call that puts data into a file, named so that a test can make it fail.
os_write = os.write


@dataclass(frozen=True)
class Counters:
    """What became of the records of a run: written, waiting, or dropped for want of room."""

    written: int
    pending: int
    dropped: int


class EventFileWriter:
    """Writes the event file of one run directory, from the first record on.

    Args:
        logdir: The run directory.
        purge_step: First step that an earlier session in the directory may not show; the step the
            session's START record carries.
        queue_bytes: The most bytes of records that wait.
        fallback: Where a file is begun when the directory cannot be written to at the end.
    """

    def __init__(
        self,
        logdir: str,
        purge_step: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        fallback: str | None = None,
    ) -> None:
        self._logdir = logdir
        self._start_step = self._newest_step = purge_step or 0
        self._queue_bytes = queue_bytes
        self._fallback = fallback or os.path.join(tempfile.gettempdir(), "tbtrainer")
        self._begin_counting()
        self._set_up()

    def _begin_counting(self) -> None:
        self._path: str | None = None
        self._files = 0
        self._good = 0
        self._written = self._dropped = self._waiting_bytes = 0

    def _set_up(self) -> None:
        self._records: deque[tuple[bytes, bool]] = deque()
        self._in_flight: list[tuple[bytes, bool]] = []
        self._changed = threading.Condition(threading.RLock())
        self._descriptor: int | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._fault: OSError | None = None
        self._busy_since: float | None = None
        self._last_write_seconds = 0.0
        self._process = os.getpid()

    # ---- What a run calls ----

    def get_logdir(self) -> str:
        """Returns the run directory."""
        return self._logdir

    @property
    def counters(self) -> Counters:
        """What became of the records so far."""
        with self._changed:
            return Counters(self._written, self._left(), self._dropped)

    def add_event(self, event: Any) -> None:
        """Takes a record. Never waits for the disk, never raises for its faults.

        Args:
            event: An `Event` message.
        """
        if os.getpid() != self._process:
            return  # A forked child, such as a worker of a data loader: the run is its parent's.
        record = framed(event.SerializeToString())
        is_scalar = all(v.WhichOneof("value") == "simple_value" for v in event.summary.value)
        with self._changed:
            self._newest_step = max(self._newest_step, event.step)
            self._records.append((record, is_scalar))
            self._waiting_bytes += len(record)
            self._drop_excess()
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush(self, seconds: float | None = None) -> bool:
        """Waits until everything has been handed to the operating system.

        Args:
            seconds: The most to wait. `None` suits a log call: 50 ms, and nothing on a disk that
                was slow the last time. While a fault lasts nothing is waited in any case.

        Returns:
            Whether nothing is left.
        """
        if os.getpid() != self._process:
            return True
        if seconds is None:
            seconds = 0.0 if self._last_write_seconds > _SLOW_SECONDS else FLUSH_SECONDS
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._left() and self._thread is not None and not self._is_stuck():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            return self._left() == 0

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Writes what is left and closes the file. A later record opens it again.

        What the run directory does not take by then goes to a file of the fallback directory, which
        is named in a warning.
        """
        if os.getpid() != self._process or self._thread is None:
            return
        self.flush(seconds)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        thread.join(seconds)
        if not thread.is_alive():
            with self._changed:
                self._thread, self._closing = None, False
            if self._records and self._fault is not None:
                self._save_elsewhere()
        else:
            logger.warning(
                "%s does not answer: %d records wait there unwritten, and are lost if the process "
                "ends before it does.",
                self._logdir,
                self._left(),
            )

    # ---- The thread ----

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tbtrainer-event-file", daemon=True)
        self._thread.start()
        # Without a strong reference, so that a forgotten writer can be collected.
        me = weakref.ref(self)
        atexit.register(_close_if_alive, me)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                while not self._records and not self._closing:
                    self._changed.wait()
                if not self._records or (self._closing and self._fault is not None):
                    break
                batch = self._batch()
                self._busy_since = time.monotonic()
            try:
                self._write([record for record, _ in batch])
            except OSError as error:
                self._faulty(error)
                with self._changed:
                    if not self._closing:
                        self._changed.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                self._done(len(batch))
        self._release()

    def _batch(self) -> list[tuple[bytes, bool]]:
        """Takes the oldest records out of the queue. The caller has the lock."""
        size = 0
        while self._records and (not self._in_flight or size < _BATCH_BYTES):
            self._in_flight.append(self._records.popleft())
            size += len(self._in_flight[-1][0])
        return self._in_flight

    def _left(self) -> int:
        return len(self._records) + len(self._in_flight)

    def _write(self, batch: list[bytes]) -> None:
        """Writes whole records: what a fault left torn is cut off before the next try."""
        self._open_if_needed()
        assert self._descriptor is not None
        try:
            _write_all(self._descriptor, b"".join(batch))
        except OSError:
            os.ftruncate(self._descriptor, self._good)
            os.lseek(self._descriptor, self._good, os.SEEK_SET)
            raise
        self._good += sum(map(len, batch))

    def _open_if_needed(self) -> None:
        """Opens the file, again if it was deleted or replaced, or its directory was."""
        if self._descriptor is not None and not self._is_ours(self._descriptor):
            self._release()
            self._path = None
        if self._descriptor is not None:
            return
        if self._path is not None and os.path.exists(self._path):
            self._descriptor = os.open(self._path, os.O_WRONLY)
            self._good = os.lseek(self._descriptor, 0, os.SEEK_END)
            return
        os.makedirs(self._logdir, exist_ok=True)
        self._begin_file(next_event_file(self._logdir, self._files))

    def _begin_file(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            header = _header(self._newest_step + 1 if self._files else self._start_step)
            _write_all(descriptor, header)
        except OSError:
            os.close(descriptor)
            os.unlink(path)
            raise
        self._descriptor, self._path, self._good = descriptor, path, len(header)
        self._files += 1

    def _is_ours(self, descriptor: int) -> bool:
        opened = os.fstat(descriptor)
        try:
            named = os.stat(self._path or "")
        except OSError:
            return False
        return (opened.st_ino, opened.st_dev) == (named.st_ino, named.st_dev)

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # ---- Faults ----

    def _is_stuck(self) -> bool:
        """A fault lasts, or one write has taken longer than any disk should."""
        busy = self._busy_since
        return self._fault is not None or (
            busy is not None and time.monotonic() - busy > CLOSE_SECONDS
        )

    def _faulty(self, error: OSError) -> None:
        if self._fault is None:
            logger.warning(
                "The run cannot be written to %s (%s). Training goes on; records are kept, up to "
                "%d MiB, and written when it can be written to again.",
                self._logdir,
                error,
                self._queue_bytes // 2**20,
            )
        with self._changed:
            self._records.extendleft(reversed(self._in_flight))
            self._in_flight = []
            self._drop_excess()
            self._fault = error
            self._busy_since = None
            self._changed.notify_all()

    def _done(self, records: int) -> None:
        with self._changed:
            self._waiting_bytes -= sum(len(record) for record, _ in self._in_flight)
            self._in_flight = []
            self._written += records
            if self._busy_since is not None:
                self._last_write_seconds = time.monotonic() - self._busy_since
            self._busy_since = None
            healed, self._fault = self._fault is not None, None
            self._changed.notify_all()
        if healed:
            logger.warning("The run can be written to %s again: %s.", self._logdir, self.counters)

    def _drop_excess(self) -> None:
        """Makes room: the oldest record that is no scalar goes first. The caller has the lock."""
        while self._waiting_bytes > self._queue_bytes and self._records:
            victim = next((i for i, (_, scalar) in enumerate(self._records) if not scalar), None)
            if victim is None:
                if self._in_flight:
                    break  # The records being written may make room, or come back to be chosen.
                victim = 0
            record, _ = self._records[victim]
            del self._records[victim]
            self._waiting_bytes -= len(record)
            self._dropped += 1

    def _save_elsewhere(self) -> None:
        """Writes what the run directory did not take to a file that the warning names."""
        directory = os.path.join(self._fallback, os.path.basename(os.path.normpath(self._logdir)))
        try:
            os.makedirs(directory, exist_ok=True)
            self._begin_file(next_event_file(directory, self._files))
            waiting = [record for record, _ in self._records]
            assert self._descriptor is not None
            _write_all(self._descriptor, b"".join(waiting))
            with self._changed:
                self._records.clear()
                self._waiting_bytes = 0
                self._written += len(waiting)
                self._fault = None
            logger.warning(
                "%s could not be written to until the end; the last %d records are in %s.",
                self._logdir,
                len(waiting),
                self._path,
            )
        except OSError as error:
            logger.error(
                "%d records of the run %s are lost: neither it nor %s could be written to (%s).",
                len(self._records),
                self._logdir,
                directory,
                error,
            )
        finally:
            self._release()
            self._path = None

    # ---- Pickling ----

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the run's directory and counters, and no file, thread or waiting records."""
        kept = ("_logdir", "_start_step", "_newest_step", "_queue_bytes", "_fallback")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin_counting()
        self._set_up()


def _close_if_alive(reference: "weakref.ref[EventFileWriter]") -> None:
    writer = reference()
    if writer is not None:
        writer.close()


def _header(start_step: int) -> bytes:
    """The version record that a loader wants first, and the START of a session."""
    now = time.time()
    version = Event(wall_time=now, file_version="brain.Event:2")
    start = Event(wall_time=now, step=start_step, session_log=SessionLog(status=SessionLog.START))
    return framed(version.SerializeToString()) + framed(start.SerializeToString())


def _write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os_write(descriptor, view) :]
