"""The event file: records from a bounded queue, written by a thread that no fault reaches past.

An implementation of the interface of tensorboard's `EventFileWriter`. Adding a record never raises
for a fault of the disk, and hardly ever waits for it. What cannot be written is kept and tried
again; when the queue is full, the oldest records that are not scalars go first, and are counted.
"""

import os
from collections.abc import Iterable
from typing import Any

from tbtrainer.event_file import delivery
from tbtrainer.event_file.local_file import EventFile, LocalEventFile
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.record_queue import Counters
from tbtrainer.event_file.records import framed
from tbtrainer.event_file.remote_file import RemoteEventFile
from tbtrainer.redaction import redacted_text

QUEUE_BYTES = 64 * 2**20


class EventFileWriter:
    """Writes the event file of one run directory, from the first record on.

    Args:
        logdir: The run directory: a local path, or a URL that fsspec knows.
        purge_step: First step that an earlier session in the directory may not show; the step the
            session's START record carries.
        queue_bytes: The most bytes of records that wait.
        fallback: Where a file is begun when the directory cannot be written to at the end; `None`
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
        self._start_step = self._newest_step = purge_step or 0
        self._queue_bytes = queue_bytes
        self._fallback = fallback
        self._file_mode = file_mode
        self._suffix = suffix
        self._set_up()

    def _set_up(self) -> None:
        self._process = os.getpid()
        self._delivery = delivery.Delivery(
            self._new_file(),
            os.path.basename(os.path.normpath(self._logdir)),
            redacted_text(self._logdir),
            self._queue_bytes,
            self._fallback,
        )

    def _new_file(self) -> EventFile:
        if is_remote(self._logdir):
            return RemoteEventFile(self._logdir, self._start_step, self._suffix)
        return LocalEventFile(self._logdir, self._start_step, self._file_mode, self._suffix)

    # ---- What a run calls ----

    def get_logdir(self) -> str:
        """Returns the run directory."""
        return self._logdir

    @property
    def counters(self) -> Counters:
        """What became of the records so far."""
        return Counters() if self._is_forked_child() else self._delivery.counters

    def add_event(self, event: Any) -> None:
        """Takes a record. Never raises for faults of the disk.

        Waits only if the queue is full and the disk quick: 50 ms at the most.

        Args:
            event: An `Event` message.
        """
        if self._is_forked_child():
            return  # Such as a worker of a data loader: the run is its parent's.
        self._newest_step = max(self._newest_step, event.step)
        is_scalar = all(map(_is_scalar, event.summary.value))
        self._delivery.put(framed(event.SerializeToString()), is_scalar, self._newest_step)

    def flush(self, seconds: float | None = None, sync: bool = False) -> bool:
        """Waits until everything has been handed to the operating system.

        Args:
            seconds: The most to wait. `None` suits a log call: 50 ms, and nothing on a disk that
                was slow the last time. While a fault lasts nothing is waited in any case.
            sync: Whether it shall also be forced to the disk.

        Returns:
            Whether nothing is left.
        """
        return self._is_forked_child() or self._delivery.flush(seconds, sync)

    def close(self) -> None:
        """Writes what is left and closes the file. A later record goes on in it.

        Waits ten seconds at the most, and one on a disk that does not answer. What the run
        directory does not take goes to a file of the fallback directory, named in a warning.
        """
        close_all([self])

    def reopen(self) -> None:
        """Does nothing: the next record opens the file."""

    def _is_forked_child(self) -> bool:
        return os.getpid() != self._process

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the run's directory, and no file, thread, counters or waiting records."""
        kept = ("_logdir", "_newest_step", "_queue_bytes", "_fallback", "_file_mode", "_suffix")
        state = {name: getattr(self, name) for name in kept}
        # The copy's session takes nothing away from the original's.
        return {**state, "_start_step": self._newest_step + 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_up()


def close_all(writers: Iterable[EventFileWriter]) -> None:
    """Closes event files at the same time, so that a hung disk is waited for once."""
    delivery.close_all(w._delivery for w in writers if not w._is_forked_child())


def _is_scalar(value: Any) -> bool:
    return bool(
        value.WhichOneof("value") == "simple_value"
        or value.metadata.plugin_data.plugin_name == "scalars"
    )
