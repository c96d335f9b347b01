"""The files of a run directory on a file system of the operating system."""

import fcntl
import os
import posixpath
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from tbtrainer.event_file.storage_protocol import STAGED, bounded

_SECONDS_BETWEEN_LOCKS = 0.05


class LocalStorage:
    """A directory of the operating system."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def make(self) -> None:
        """Makes the directory and those above it."""
        os.makedirs(self._directory, exist_ok=True)

    def names(self) -> list[str]:
        """Returns the names in the directory; none if it does not exist."""
        try:
            return os.listdir(self._directory)
        except FileNotFoundError:
            return []

    def files(self) -> list[str]:
        """Returns all regular files; links are neither followed nor returned."""
        found = []
        for place, _, names in os.walk(self._directory):
            paths = [os.path.join(place, name) for name in names]
            found += [os.path.relpath(p, self._directory) for p in paths if _is_regular(p)]
        return sorted(found)

    def open(self, path: str) -> BinaryIO:
        """Opens a regular file for reading; a link, a pipe or a device is an `OSError`."""
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        descriptor = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{path} is not a regular file")
        return os.fdopen(descriptor, "rb")

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a small regular file."""
        with self.open(path) as file:
            return bounded(file.read(most_bytes + 1), path, most_bytes)

    def create(self, path: str, data: bytes) -> bool:
        """Makes a file unless there is one; of several processes, one makes it."""
        place = self._at(path)
        try:
            with open(place, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except BaseException:
            with suppress(OSError):
                os.unlink(place)
            raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Puts a file in one move."""
        with self.stage(path) as staged:
            staged.write(data)
            staged.publish(path)

    def remove(self, path: str) -> None:
        """Deletes a file."""
        os.unlink(self._at(path))

    def modified(self, path: str) -> float:
        """Returns when a file was last written, in seconds."""
        return os.lstat(self._at(path)).st_mtime

    @contextmanager
    def stage(self, like: str) -> Iterator["_StagedLocalFile"]:
        """Begins a file of a unique name beside `like`; see `Storage.stage`."""
        staged = _StagedLocalFile(self._directory, like)
        try:
            yield staged
        finally:
            staged.discard()

    def free_bytes(self) -> float:
        """Returns the bytes that this user may still write."""
        return shutil.disk_usage(self._directory).free

    @contextmanager
    def lock(self, seconds: float) -> Iterator[bool]:
        """Locks the directory itself; the system unlocks it when the process ends."""
        deadline = time.monotonic() + seconds
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            yield self._is_locked(descriptor, deadline)
        finally:
            os.close(descriptor)

    def _is_locked(self, descriptor: int, deadline: float) -> bool:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process is rewriting {self._directory}") from None
                time.sleep(_SECONDS_BETWEEN_LOCKS)
            except OSError:
                return False

    def _at(self, path: str) -> str:
        return os.path.join(self._directory, path)


class _StagedLocalFile:
    """A file of a unique name, forced to the disk before it is moved to its place."""

    def __init__(self, directory: str, like: str) -> None:
        self._directory = directory
        self._folder = os.path.join(directory, posixpath.dirname(like))
        self._part: str | None = os.path.join(self._folder, f".{uuid.uuid4().hex}{STAGED}")
        self._file: BinaryIO | None = None
        try:
            # At first for this user alone: the run may be private.
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "wb")
            with suppress(FileNotFoundError):
                shutil.copymode(os.path.join(directory, like), self._part)
        except BaseException:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        assert self._file is not None
        self._file.write(data)

    def publish(self, path: str) -> None:
        """Forces the bytes to the disk and moves the file to `path`."""
        assert self._file is not None
        assert self._part is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, os.path.join(self._directory, path))
        self._part = None
        _sync_directory(self._folder)

    def discard(self) -> None:
        """Closes the file, and deletes it unless it was published."""
        if self._file is not None:
            # What is still in the buffer may find no room either.
            with suppress(OSError):
                self._file.close()
        if self._part is not None:
            with suppress(OSError):
                os.unlink(self._part)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _sync_directory(folder: str) -> None:
    # A directory cannot be synchronised on every system; the files themselves were.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
