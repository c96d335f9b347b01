"""Files of a run directory, local or on an object store: one interface for both.

Paths are relative to the directory, with `/` between their parts. No method follows a link inside
of the directory, so nothing outside of it is read or changed.
"""

import fcntl
import io
import os
import posixpath
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.remote_file import filesystem, names_in

# End of the names of files that are being written. No loader reads them.
STAGED = ".being-written"
_SECONDS_BETWEEN_LOCKS = 0.05


class StagedFile(Protocol):
    """A file that no one can see before it is complete."""

    def write(self, data: bytes) -> None:
        """Appends bytes."""

    def publish(self, path: str) -> None:
        """Forces the bytes to the disk and puts the file at `path`, replacing what is there."""


class Storage(Protocol):
    """What claims and rewinds ask of a run directory."""

    def make(self) -> None:
        """Makes the directory and those above it."""

    def names(self) -> list[str]:
        """Returns the names in the directory; none if it does not exist."""

    def files(self) -> list[str]:
        """Returns the paths of all regular files in the directory and below, sorted."""

    def open(self, path: str) -> BinaryIO:
        """Opens a regular file for reading."""

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a small regular file, or raises an `OSError`."""

    def create(self, path: str, data: bytes) -> bool:
        """Makes a file unless there is one. Returns whether this call made it."""

    def replace(self, path: str, data: bytes) -> None:
        """Puts a file in one move."""

    def remove(self, path: str) -> None:
        """Deletes a file."""

    def modified(self, path: str) -> float:
        """Returns when a file was last written, in seconds; 0 where the store does not know."""

    def stage(self, like: str) -> AbstractContextManager[StagedFile]:
        """Begins a file with the permissions of `like`. It is deleted if it is not published."""

    def free_bytes(self) -> float:
        """Returns the room that is left; infinite where it is unknown."""

    def lock(self, seconds: float) -> AbstractContextManager[bool]:
        """Keeps other processes that lock the directory waiting.

        Yields whether the lock is held; `False` where the file system has no locks.

        Raises:
            TimeoutError: Another process held the lock for so long.
        """


def storage_of(directory: str) -> Storage:
    """Returns the storage of a run directory: a local path, or a URL that fsspec knows."""
    return RemoteStorage(directory) if is_remote(directory) else LocalStorage(directory)


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
            return _bounded(file.read(most_bytes + 1), path, most_bytes)

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


class RemoteStorage:
    """A directory of an object store, where each put replaces an object in one move."""

    def __init__(self, directory: str) -> None:
        self._opened, self._root = filesystem(directory)

    def make(self) -> None:
        """Makes the directory, on stores that have directories."""
        self._opened.makedirs(self._root, exist_ok=True)

    def names(self) -> list[str]:
        """Returns the names in the directory; none if it does not exist."""
        return names_in(self._opened, self._root)

    def files(self) -> list[str]:
        """Returns all objects below the directory."""
        self._opened.invalidate_cache()
        prefix = f"{self._root}/"
        found = self._opened.find(self._root)
        return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))

    def open(self, path: str) -> BinaryIO:
        """Fetches an object whole."""
        return io.BytesIO(self._opened.cat_file(self._at(path)))

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a small object."""
        data: bytes = self._opened.cat_file(self._at(path), start=0, end=most_bytes + 1)
        return _bounded(data, path, most_bytes)

    def create(self, path: str, data: bytes) -> bool:
        """Puts an object unless there is one.

        Object stores can seldom do both at once. Of several processes at the same moment, the last
        to put its object has made it, and the others see so when they read it.
        """
        if self._opened.exists(self._at(path)):
            return False
        self._opened.pipe_file(self._at(path), data)
        return bool(self._opened.cat_file(self._at(path)) == data)

    def replace(self, path: str, data: bytes) -> None:
        """Puts an object."""
        self._opened.pipe_file(self._at(path), data)

    def remove(self, path: str) -> None:
        """Deletes an object."""
        self._opened.rm_file(self._at(path))

    def modified(self, path: str) -> float:
        """Returns when an object was last put, in seconds; 0 where the store does not know."""
        try:
            return float(self._opened.modified(self._at(path)).timestamp())
        except Exception:  # Not every store has the method; each has exceptions of its own.
            return 0.0

    @contextmanager
    def stage(self, like: str) -> Iterator["_StagedObject"]:
        """Collects an object in memory; see `Storage.stage`."""
        yield _StagedObject(self)

    def free_bytes(self) -> float:
        """Returns infinity: object stores do not say."""
        return float("inf")

    @contextmanager
    def lock(self, seconds: float) -> Iterator[bool]:
        """Yields `False`: object stores have no locks."""
        yield False

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


class _StagedObject:
    def __init__(self, storage: RemoteStorage) -> None:
        self._storage = storage
        self._data = io.BytesIO()

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._data.write(data)

    def publish(self, path: str) -> None:
        """Puts the object."""
        self._storage.replace(path, self._data.getvalue())


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _bounded(data: Any, path: str, most_bytes: int) -> bytes:
    if len(data) > most_bytes:
        raise OSError(f"{path} is longer than {most_bytes} bytes")
    return bytes(data)


def _sync_directory(folder: str) -> None:
    # A directory cannot be synchronised on every system; the files themselves were.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
