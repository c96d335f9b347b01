"""The interface to the files of a run directory, local or remote, for claims and rewinds.

Paths are relative to the directory, with `/` between their parts. No method follows a link inside
of the directory, so nothing outside of it is read or changed.
"""

import posixpath
import re
import uuid
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol

from tbtrainer.redaction import shown

# End of the names of files that are being written. No loader reads them.
_STAGED_END = ".being-written"
_STAGED_NAME = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(_STAGED_END)}")


class UnsuitableFile(OSError):
    """What has the name of a file is a link, a pipe or a directory, or has too many bytes."""


class StagedFile(Protocol):
    """A file that gets its final name only when it is complete."""

    def write(self, data: bytes) -> None:
        """Appends bytes."""

    def publish(self, path: str) -> None:
        """Forces the bytes to the disk and puts the file at `path`, replacing what is there."""


class Storage(Protocol):
    """The files of one run directory."""

    def make(self) -> None:
        """Makes the directory and those above it."""

    def names(self) -> list[str]:
        """Returns the names in the directory; none if it does not exist."""

    def files(self) -> list[str]:
        """Returns the paths of all regular files in the directory and below, sorted."""

    def open(self, path: str) -> BinaryIO:
        """Opens a regular file for reading; anything else is an `UnsuitableFile`."""

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a regular file.

        Raises:
            UnsuitableFile: It is no regular file, or has more than `most_bytes`.
        """

    def create(self, path: str, data: bytes) -> bool:
        """Makes a file unless it exists. Returns whether this call made it."""

    def replace(self, path: str, data: bytes, mode: int | None = None, sync: bool = True) -> None:
        """Writes a file, replacing an existing one atomically.

        Args:
            path: The file.
            data: Its content.
            mode: Permissions of a local file, before the process's umask; `None` keeps those of the
                existing file.
            sync: Whether a local file is forced to the disk before it gets its name.
        """

    def remove(self, path: str) -> None:
        """Deletes a file."""

    def modified(self, path: str) -> float:
        """Returns when a file was last written, in seconds; 0 where the store does not know."""

    def stage(self, like: str) -> AbstractContextManager[StagedFile]:
        """Begins a file with the permissions of `like`. It is deleted if it is not published."""

    def free_bytes(self) -> float:
        """Returns how many bytes can still be written; infinity if that is unknown."""

    def lock(self, seconds: float) -> AbstractContextManager[bool]:
        """Locks the directory: other processes that lock it wait.

        Yields whether the lock is held; `False` if the file system has no locks.

        Args:
            seconds: The longest wait for another process.

        Raises:
            TimeoutError: Another process still holds the lock after `seconds`.
        """


def staged_name() -> str:
    """Returns a unique name for a file that is being written."""
    return f".{uuid.uuid4().hex}{_STAGED_END}"


def is_staged(path: str) -> bool:
    """Whether a path has the name of a file that tbtrainer is writing, or left unfinished."""
    return _STAGED_NAME.fullmatch(posixpath.basename(path)) is not None


def bounded(data: Any, path: str, most_bytes: int) -> bytes:
    """Returns the content of a file, or raises `UnsuitableFile` if it is longer than allowed."""
    if len(data) > most_bytes:
        raise UnsuitableFile(f"{shown(path)} is longer than {most_bytes} bytes")
    return bytes(data)
