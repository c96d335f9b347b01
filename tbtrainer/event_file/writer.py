"""The event file's writer: a bounded queue, and a thread whose disk faults never reach the caller.

It has the interface of tensorboard's `EventFileWriter`. Adding a record never raises for a fault of
the disk, and seldom waits for it. What cannot be written is kept and retried. When the queue is
full, the oldest records that are not scalars are dropped first, and counted.
"""

import os
import uuid
from collections.abc import Iterable
from typing import Any

from tbtrainer.event_file import delivery
from tbtrainer.event_file.event_file import EventFile
from tbtrainer.event_file.fallback import FallbackFile
from tbtrainer.event_file.local_file import LocalEventFile
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.record_queue import Counters
from tbtrainer.event_file.records import framed
from tbtrainer.event_file.remote_file import RemoteEventFile
from tbtrainer.redaction import redacted_text

QUEUE_BYTES = 64 * 2**20
# Distinguishes this process from one that imports this module anew, also if containers give both
# the same number.
_PROCESS_TOKEN = uuid.uuid4().hex


class EventFileWriter:
    """Writes the event file of one run directory, from the first record on.

    Args:
        logdir: The run directory: a local path, or a URL that fsspec knows.
        purge_step: First step of earlier sessions in the directory that this one replaces.
        queue_bytes: The most bytes of records that wait.
        fallback: Where records are written that the directory did not accept until the end; `None`
            for a new directory among the system's temporary files.
        file_mode: Permissions of a local event file, before the process's umask.
        suffix: End of the event file's name.
    """

    def __init__(
        self,
        logdir: str,
        purge_step: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        fallback: str | None = None,
        file_mode: int = 0o666,
        suffix: str = "",
    ) -> None:
        self._logdir = logdir
        self._purge_step = purge_step
        self._continues = False
        self._queue_bytes = queue_bytes
        self._fallback = fallback
        self._file_mode = file_mode
        self._suffix = suffix
        self._process = _this_process()
        self._delivery = self._new_delivery()

    def _new_delivery(self) -> delivery.Delivery:
        run = os.path.basename(os.path.normpath(self._logdir))
        return delivery.Delivery(
            self._new_file(),
            FallbackFile(run, self._fallback),
            redacted_text(self._logdir),
            self._queue_bytes,
        )

    def _new_file(self) -> EventFile:
        if is_remote(self._logdir):
            return RemoteEventFile(self._logdir, self._purge_step, self._suffix, self._continues)
        return LocalEventFile(
            self._logdir, self._purge_step, self._file_mode, self._suffix, self._continues
        )

    # ---- What a run calls ----

    def get_logdir(self) -> str:
        """Returns the run directory."""
        return self._logdir

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped so far."""
        return Counters() if self.is_other_process else self._delivery.counters

    def add_event(self, event: Any) -> None:
        """Takes a record. Never raises for faults of the disk.

        Waits only if the queue is full and the disk quick: `LOG_SECONDS` at most, and
        `CHECKPOINT_SECONDS` for a record larger than the whole queue.

        Args:
            event: An `Event` message.
        """
        if self.is_other_process:
            return  # Such as a worker of a data loader: only the parent process writes.
        is_scalar = all(map(_is_scalar, event.summary.value))
        self._delivery.put(framed(event.SerializeToString()), is_scalar)

    def flush(self, seconds: float | None = None, sync: bool = False) -> bool:
        """Waits until everything added so far has been handed to the operating system.

        Args:
            seconds: The most to wait. `None` suits a log call: `LOG_SECONDS`, and no time on a disk
                whose last writes were slow. During a fault no time is waited in any case.
            sync: Whether the file is also forced to the disk.

        Returns:
            Whether everything was written.
        """
        return self.is_other_process or self._delivery.flush(seconds, sync)

    def close(self) -> None:
        """Writes what is left and closes the file. A later record opens it again.

        Waits at most `CLOSE_SECONDS`, and less than a second for a disk that does not answer. What
        the run directory does not accept is written to a fallback file, which a warning names.
        """
        close_all([self])

    def reopen(self) -> None:
        """Does nothing: the next record opens the file."""

    @property
    def is_other_process(self) -> bool:
        """Whether this is a copy in a process that did not make the writer: it writes nothing."""
        return self._process != _this_process()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings, without file, thread, counters and waiting records.

        A copy in the same process writes an event file of its own. A copy in another process, such
        as a worker of a data loader, writes nothing.
        """
        left_out = ("_delivery", "_continues")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # The copy's file must not hide what the original has written.
        self._continues = True
        self._delivery = self._new_delivery()


def close_all(writers: Iterable[EventFileWriter]) -> None:
    """Closes event files at the same time, so that a hung disk is waited for once."""
    delivery.close_all(w._delivery for w in writers if not w.is_other_process)


def _this_process() -> tuple[int, str]:
    return os.getpid(), _PROCESS_TOKEN


def _is_scalar(value: Any) -> bool:
    return bool(
        value.WhichOneof("value") == "simple_value"
        or value.metadata.plugin_data.plugin_name == "scalars"
    )
