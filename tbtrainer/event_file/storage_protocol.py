"""What claims and rewinds ask of the files of a run directory.

Paths are relative to the directory, with `/` between their parts. No method follows a link inside
of the directory, so nothing outside of it is read or changed.
"""

from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol

# End of the names of files that are being written. No loader reads them.
STAGED = ".being-written"


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


def bounded(data: Any, path: str, most_bytes: int) -> bytes:
    """Returns the content of a file, or raises an `OSError` if it is longer than allowed."""
    if len(data) > most_bytes:
        raise OSError(f"{path} is longer than {most_bytes} bytes")
    return bytes(data)
