"""The writer of event files, with the interface of tensorboard's `EventFileWriter`.

Records go to a queue, and a thread writes them. A fault of the disk is never raised to the caller.
Records that cannot be written are kept and retried. When the queue is full, the oldest records that
are not scalars are dropped first, and the dropped ones are counted.
"""

import os
import uuid
from collections.abc import Iterable
from typing import Any

from tbtrainer.event_file import delivery
from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.event_file import EventFile
from tbtrainer.event_file.fallback import FallbackEventFile
from tbtrainer.event_file.local_file import LocalEventFile
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.records import framed
from tbtrainer.event_file.remote_file import RemoteEventFile
from tbtrainer.redaction import redacted_text

QUEUE_BYTES = 64 * 2**20
# Identifies this process. The process number alone is not enough: processes of two containers may
# have the same one.
_PROCESS_TOKEN = uuid.uuid4().hex


class EventFileWriter:
    """Writes the event file of one run directory. The file is created with the first record.

    Args:
        logdir: The run directory: a local path, or a URL that fsspec knows.
        purge_step: First step of earlier sessions in the directory that this one replaces.
        queue_bytes: The most bytes of records that wait in the queue.
        fallback: The directory for records that could not be written to `logdir` before the writer
            was closed; `None` for a new directory in the system's directory of temporary files.
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
        self._process = this_process()
        self._delivery = self._new_delivery()

    def _new_delivery(self) -> delivery.Delivery:
        run = os.path.basename(os.path.normpath(self._logdir))
        return delivery.Delivery(
            self._new_file(),
            FallbackEventFile(run, self._fallback),
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
        """Adds an event to the queue. Never raises an error for a fault of the disk.

        If the queue is full and the last writes were fast, it waits for room: at most
        `LOG_SECONDS`, or `CHECKPOINT_SECONDS` for a record larger than the whole queue.

        Args:
            event: An `Event` message.
        """
        if self.is_other_process:
            return  # For example in a worker of a data loader: only the parent process writes.
        is_scalar = all(map(_is_scalar, event.summary.value))
        self._delivery.put(framed(event.SerializeToString()), is_scalar)

    def flush(self, seconds: float | None = None, sync: bool = False) -> bool:
        """Waits until the records added so far have been handed to the operating system.

        During a fault of the disk it does not wait.

        Args:
            seconds: The longest wait. `None`, for a log call, waits `LOG_SECONDS` at most, and not
                at all if the last writes were slow.
            sync: Whether the file is also forced to the disk.

        Returns:
            Whether all these records were written.
        """
        return self.is_other_process or self._delivery.flush(seconds, sync)

    def close(self) -> None:
        """Writes the waiting records and closes the file. A later record opens it again.

        Waits at most `CLOSE_SECONDS`, and less than a second for a disk that hangs. Records that
        cannot be written to the run directory are written to a fallback file. A warning names it.
        """
        close_all([self])

    def reopen(self) -> None:
        """Does nothing, because the next record opens the file."""

    @property
    def is_other_process(self) -> bool:
        """Whether this is a copy in another process than that of the writer: it never writes."""
        return self._process != this_process()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings, without file, thread, counters and waiting records.

        A copy in the same process writes an event file of its own. A copy in another process, such
        as a worker of a data loader, writes nothing.
        """
        left_out = ("_delivery", "_continues")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Without a START event the copy's file hides no events of the original.
        self._continues = True
        self._delivery = self._new_delivery()


def close_all(writers: Iterable[EventFileWriter]) -> None:
    """Closes event files at the same time, so that one limit holds for all of them together."""
    delivery.close_all(w._delivery for w in writers if not w.is_other_process)


def this_process() -> tuple[int, str]:
    """Returns what identifies this process, also among those of other containers."""
    return os.getpid(), _PROCESS_TOKEN


def _is_scalar(value: Any) -> bool:
    return bool(
        value.WhichOneof("value") == "simple_value"
        or value.metadata.plugin_data.plugin_name == "scalars"
    )
