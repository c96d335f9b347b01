"""The event file of a local run directory: one descriptor, whole records, no torn end."""

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tbtrainer.event_file.names import event_file_name, event_files_in
from tbtrainer.event_file.records import session_header

# The one system call that puts data into a file, named so that a test can make it fail.
os_write = os.write
# Tells the event files of this process apart.
_numbers = itertools.count()


@dataclass(frozen=True)
class Appended:
    """What became of records handed to an event file.

    Attributes:
        records: So many, from the first on, are in the file whole; the others not at all.
        fault: Why not all are, or `None`.
    """

    records: int
    fault: Exception | None = None


class EventFile(Protocol):
    """Where records go; one class for local directories and one for remote ones."""

    path: str | None
    seconds_between_appends: float
    # An append that takes longer is said to hang, and is not waited for at the end.
    seconds_until_hung: float

    def append(self, records: Sequence[bytes], newest_step: int) -> Appended:
        """Writes records. Reports faults, and never raises them."""

    def sync(self) -> None:
        """Forces what was appended to the disk, and raises what keeps it from getting there."""

    def release(self) -> None:
        """Gives back what is open. The next `append` goes on."""


class LocalEventFile:
    """Appends to one event file, and begins another when the first is gone or spoilt.

    Args:
        directory: The run directory. It is made with the first record.
        start_step: Step of the START record of the first file.
        mode: Permissions of the files, before the process's umask.
        suffix: End of the files' names.
    """

    seconds_between_appends = 0.0
    seconds_until_hung = 0.8

    def __init__(
        self, directory: str, start_step: int, mode: int = 0o666, suffix: str = ""
    ) -> None:
        self.path: str | None = None
        self._directory, self._mode, self._suffix = directory, mode, suffix
        self._start_step = start_step
        self._descriptor: int | None = None
        self._identity = (0, 0)
        # How far the file holds whole records, and whether there may be anything after them.
        self._size = 0
        self._torn = False

    def append(self, records: Sequence[bytes], newest_step: int) -> Appended:
        """Writes records; what a fault left torn is cut off.

        Args:
            records: Whole records.
            newest_step: The newest step of the run, for the START of a file begun anew.
        """
        try:
            descriptor = self._ready(newest_step)
        except OSError as fault:
            return Appended(0, fault)
        done, error = _write(descriptor, b"".join(records))
        whole = 0
        while whole < len(records) and done >= len(records[whole]):
            done -= len(records[whole])
            self._size += len(records[whole])
            whole += 1
        if error is not None:
            self._torn = True
            self._cut_torn_end()
        return Appended(whole, error)

    def sync(self) -> None:
        """Forces the file to the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def release(self) -> None:
        """Closes the descriptor."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # On network file systems the last error may come here; the data is beyond reach.
            with suppress(OSError):
                os.close(descriptor)

    def _ready(self, newest_step: int) -> int:
        """Returns a descriptor at the end of the last whole record."""
        if self._descriptor is not None and (
            self._was_taken_away(self._descriptor) or (self._torn and not self._cut_torn_end())
        ):
            self._leave_file()
        if self._descriptor is None and self.path is not None and not self._reopened(self.path):
            self._leave_file()
        if self._descriptor is None:
            self._begin_file(newest_step)
        assert self._descriptor is not None
        return self._descriptor

    def _leave_file(self) -> None:
        self.release()
        self.path, self._torn = None, False

    def _was_taken_away(self, descriptor: int) -> bool:
        """Whether the file was deleted, replaced, or cut shorter than what was written to it."""
        try:
            named = os.stat(self.path or "")
        except (FileNotFoundError, NotADirectoryError):
            return True
        except PermissionError:
            return False  # The path is closed to us now, the descriptor is not.
        try:
            size = os.fstat(descriptor).st_size
        except OSError:
            return True  # It belongs to a mount that was lost; the path has come back.
        return (named.st_ino, named.st_dev) != self._identity or size < self._size

    def _cut_torn_end(self) -> bool:
        """Cuts the file after its last whole record: loaders never see what follows a torn one."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError:
            return False
        self._torn = False
        return True

    def _reopened(self, path: str) -> bool:
        """Opens the file again after a close, unless something happened to it meanwhile.

        A loader that has gone on to a newer file does not come back for what an older one gets.
        """
        try:
            newest = max(event_files_in(self._directory), default="")
            if newest != os.path.basename(path):
                return False
            descriptor = os.open(path, os.O_WRONLY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        opened = os.fstat(descriptor)
        if (opened.st_ino, opened.st_dev) != self._identity or opened.st_size != self._size:
            os.close(descriptor)
            return False
        os.lseek(descriptor, 0, os.SEEK_END)
        self._descriptor = descriptor
        return True

    def _begin_file(self, newest_step: int) -> None:
        os.makedirs(self._directory, exist_ok=True)
        name = event_file_name(event_files_in(self._directory), next(_numbers)) + self._suffix
        path = os.path.join(self._directory, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        header = session_header(self._start_step)
        done, fault = _write(descriptor, header)
        if fault is not None:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)
            raise fault
        opened = os.fstat(descriptor)
        self._identity = (opened.st_ino, opened.st_dev)
        self._descriptor, self.path, self._size, self._torn = descriptor, path, done, False
        # A second file of this session takes nothing away from the first.
        self._start_step = newest_step + 1


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Writes all of it, however little the system takes at a time; or says how far it came."""
    done = 0
    view = memoryview(data)
    while done < len(data):
        try:
            done += os_write(descriptor, view[done:])
        except OSError as fault:
            return done, fault
    return done, None
