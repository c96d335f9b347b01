"""The event file of a local run directory."""

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress

from tbtrainer.event_file.event_file import Appended, first_start_step
from tbtrainer.event_file.names import event_file_name, event_files_in
from tbtrainer.event_file.records import file_header
from tbtrainer.event_file.waiting import HUNG_SECONDS

# The only system call that writes data. Tests replace this name.
os_write = os.write
# Distinguishes the event files of this process.
_numbers = itertools.count()


class LocalEventFile:
    """Appends to an event file, and begins a new one if the file is deleted or damaged.

    Args:
        directory: The run directory. It is created with the first record.
        purge_step: First step of earlier sessions that this session replaces, or `None`.
        mode: Permissions of the files, before the process's umask.
        suffix: End of the files' names.
        continues: Whether the session has written another file already, so that the first file
            here has no START event.
    """

    seconds_between_appends = 0.0
    hung_after_seconds = HUNG_SECONDS

    def __init__(
        self,
        directory: str,
        purge_step: int | None = None,
        mode: int = 0o666,
        suffix: str = "",
        continues: bool = False,
    ) -> None:
        self.path: str | None = None
        self._directory, self._mode, self._suffix = directory, mode, suffix
        self._purge_step, self._continues = purge_step, continues
        self._descriptor: int | None = None
        self._identity = (0, 0)
        # The size of the whole records in the file, and whether a torn one may follow them.
        self._size = 0
        self._torn = False
        # What another program did to the previous file, until an `Appended` has reported it.
        self._lost_file: str | None = None

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records, and cuts off a record that a fault left incomplete.

        Args:
            records: Whole records.
        """
        try:
            descriptor = self._ready()
        except OSError as fault:
            return Appended(0, fault)
        lost_file, self._lost_file = self._lost_file, None
        done, error = _write(descriptor, b"".join(records))
        whole = 0
        while whole < len(records) and done >= len(records[whole]):
            done -= len(records[whole])
            self._size += len(records[whole])
            whole += 1
        if error is not None:
            self._torn = True
            self._cut_torn_end()
        return Appended(whole, error, lost_file)

    def sync(self) -> None:
        """Forces the file to the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the descriptor. The next `append` opens the file again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Network file systems may report a late error here. The data cannot be written again.
            with suppress(OSError):
                os.close(descriptor)

    def _ready(self) -> int:
        """Returns a descriptor at the end of the last whole record."""
        if self._descriptor is not None:
            lost = self._how_lost(self._descriptor)
            if lost is not None or (self._torn and not self._cut_torn_end()):
                self._abandon_file(lost)
        elif self.path is not None:
            self._reopen(self.path)
        if self._descriptor is None:
            self._begin_file()
        assert self._descriptor is not None
        return self._descriptor

    def _abandon_file(self, lost: str | None) -> None:
        self.close()
        self.path, self._torn = None, False
        self._lost_file = lost or self._lost_file

    def _how_lost(self, descriptor: int) -> str | None:
        """Returns what another program did to the open file; `None` if it is unchanged."""
        try:
            named = os.stat(self.path or "")
        except (FileNotFoundError, NotADirectoryError):
            return "was deleted"
        except PermissionError:
            return None  # The path is no longer readable, but the open file can be written to.
        try:
            size = os.fstat(descriptor).st_size
        except OSError:
            return "was on a file system that was unmounted"
        return self._how_changed(named, size)

    def _how_changed(self, named: os.stat_result, size: int) -> str | None:
        if (named.st_ino, named.st_dev) != self._identity:
            return "was replaced by another file"
        return "was cut short" if size < self._size else None

    def _cut_torn_end(self) -> bool:
        """Truncates the file after its last whole record, because loaders stop at a torn one."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError:
            return False
        self._torn = False
        return True

    def _reopen(self, path: str) -> None:
        """Opens the file again after a close, or abandons it if it was changed meanwhile."""
        try:
            # Raises FileNotFoundError if the directory is missing.
            is_newest = max(event_files_in(self._directory), default="") == os.path.basename(path)
            descriptor = os.open(path, os.O_WRONLY)
        except (FileNotFoundError, NotADirectoryError):
            self._abandon_file("was deleted")
            return
        opened = os.fstat(descriptor)
        lost = self._how_changed(opened, opened.st_size)
        if lost is None and opened.st_size > self._size:
            lost = "was appended to by another program"
        # A loader that has begun to read a newer file does not read an older one again.
        if lost is not None or not is_newest:
            os.close(descriptor)
            self._abandon_file(lost)
            return
        os.lseek(descriptor, 0, os.SEEK_END)
        self._descriptor = descriptor

    def _begin_file(self) -> None:
        os.makedirs(self._directory, exist_ok=True)
        existing = event_files_in(self._directory)
        name = event_file_name(existing, next(_numbers)) + self._suffix
        path = os.path.join(self._directory, name)
        start = None if self._continues else first_start_step(self._purge_step, not existing)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        done, fault = _write(descriptor, file_header(start))
        if fault is not None:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)
            raise fault
        opened = os.fstat(descriptor)
        self._identity = (opened.st_ino, opened.st_dev)
        self._descriptor, self.path, self._size, self._torn = descriptor, path, done, False
        self._continues = True


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Writes data in as many calls as the system needs.

    Returns:
        How many bytes were written, and the error that stopped the writing, or `None`.
    """
    done = 0
    view = memoryview(data)
    while done < len(data):
        try:
            done += os_write(descriptor, view[done:])
        except OSError as fault:
            return done, fault
    return done, None
