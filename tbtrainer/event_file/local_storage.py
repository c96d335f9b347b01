"""The files of a run directory on a local or mounted file system."""

import errno
import fcntl
import os
import posixpath
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO

from tbtrainer.event_file.storage_protocol import UnsuitableFile, bounded, staged_name
from tbtrainer.redaction import shown

_SECONDS_BETWEEN_LOCKS = 0.05
# Read, write and execute, for owner, group and others.
_PERMISSIONS = 0o777


class LocalStorage:
    """A local directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def make(self) -> None:
        """Makes the directory and those above it."""
        os.makedirs(self._directory, exist_ok=True)

    def names(self) -> list[str]:
        """Returns the names in the directory; an empty list if it does not exist."""
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
        """Opens a regular file for reading; a link, a pipe or a device is an `UnsuitableFile`."""
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._at(path), flags)
        except OSError as error:
            # The errors of a link, in Linux and in BSD, and of a socket.
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise UnsuitableFile(f"{shown(path)} is not a regular file") from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UnsuitableFile(f"{shown(path)} is not a regular file")
        return os.fdopen(descriptor, "rb")

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a regular file; see `Storage.read`."""
        with self.open(path) as file:
            return bounded(file.read(most_bytes + 1), path, most_bytes)

    def create(self, path: str, data: bytes) -> bool:
        """Makes a file unless it exists. If several processes try, exactly one makes it."""
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

    def replace(self, path: str, data: bytes, mode: int | None = None, sync: bool = True) -> None:
        """Writes a file, replacing an existing one atomically; see `Storage.replace`."""
        with self._stage(path, mode, sync) as staged:
            staged.write(data)
            staged.publish(path)

    def remove(self, path: str) -> None:
        """Deletes a file."""
        os.unlink(self._at(path))

    def modified(self, path: str) -> float:
        """Returns when a file was last written, in seconds."""
        return os.lstat(self._at(path)).st_mtime

    def stage(self, like: str) -> AbstractContextManager["_StagedLocalFile"]:
        """Begins a file with a unique name in the folder of `like`; see `Storage.stage`."""
        return self._stage(like)

    @contextmanager
    def _stage(
        self, like: str, mode: int | None = None, sync: bool = True
    ) -> Iterator["_StagedLocalFile"]:
        staged = _StagedLocalFile(self._directory, like, mode, sync)
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
                    raise TimeoutError(
                        f"another process is rewriting {shown(self._directory)}"
                    ) from None
                time.sleep(_SECONDS_BETWEEN_LOCKS)
            except OSError:
                return False

    def _at(self, path: str) -> str:
        return os.path.join(self._directory, path)


class _StagedLocalFile:
    """A file with a unique name, which is renamed when it is complete.

    Args:
        directory: The directory of the storage.
        like: The file that it replaces, or whose permissions it gets.
        mode: Its permissions, before the process's umask; `None` for those of `like`.
        sync: Whether it is forced to the disk before it is renamed.
    """

    def __init__(self, directory: str, like: str, mode: int | None, sync: bool) -> None:
        self._sync = sync
        self._directory = directory
        self._folder = os.path.join(directory, posixpath.dirname(like))
        self._part: str | None = os.path.join(self._folder, staged_name())
        self._file: BinaryIO | None = None
        try:
            # The run may be private: only this user may read the file until its mode is copied.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(self._part, flags, 0o600 if mode is None else mode)
            self._file = os.fdopen(descriptor, "wb")
            if mode is None:
                self._take_permissions(os.path.join(directory, like))
        except BaseException:
            self.discard()
            raise

    def _take_permissions(self, like: str) -> None:
        """Copies owner and permissions of a regular file, if there is one.

        Set-user-ID and similar bits are left out. Otherwise root, who rewrites the run of another
        user, would give the bytes of that user to a program that runs as root.
        """
        assert self._file is not None
        try:
            status = os.lstat(like)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            descriptor = self._file.fileno()
            # Only root may give files away. Some file systems have no owners.
            with suppress(OSError):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, status.st_mode & _PERMISSIONS)

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        assert self._file is not None
        self._file.write(data)

    def publish(self, path: str) -> None:
        """Moves the file to `path`, forced to the disk if `sync` is set."""
        assert self._file is not None
        assert self._part is not None
        self._file.flush()
        if self._sync:
            os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, os.path.join(self._directory, path))
        self._part = None
        if self._sync:
            _sync_directory(self._folder)

    def discard(self) -> None:
        """Closes the file, and deletes it unless it was published."""
        if self._file is not None:
            # Closing writes the buffer, which also fails on a full disk.
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
    # Some file systems cannot force a directory to the disk. The files in it already were.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
