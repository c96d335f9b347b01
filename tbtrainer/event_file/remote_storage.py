"""The files of a run directory on an object store, through fsspec."""

import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from tbtrainer.event_file.storage_protocol import bounded
from tbtrainer.redaction import redacted_text, shown


def filesystem(directory: str, argument: str = "logging_dir") -> tuple[Any, str]:
    """Opens the file system of a remote run directory.

    Args:
        directory: A URL such as `s3://bucket/run`.
        argument: Where the user gave the URL, for the message of an error.

    Returns:
        The fsspec file system, and the directory's path in it.

    Raises:
        ValueError: fsspec does not know the protocol, a package for it is not installed, or the
            file system cannot be opened. The message has no secrets.
    """
    protocol = directory.split("://", 1)[0]
    try:
        opened, path = url_to_fs(directory)
    except Exception as error:  # Every object store has exceptions of its own.
        # Not `from error`: its text may contain the credentials of the URL, and would be printed.
        raise ValueError(_why_not_opened(directory, protocol, error, argument)) from None
    return opened, path.rstrip("/")


def _why_not_opened(directory: str, protocol: str, error: Exception, argument: str) -> str:
    """Returns the message of the error that `filesystem` raises."""
    name, why = shown(protocol), redacted_text(str(error))
    if isinstance(error, ImportError):
        return f"{argument}: {name}:// needs a package that is not installed: {why}"
    known = fsspec.available_protocols()
    if isinstance(error, ValueError) and protocol not in known:
        return (
            f"{argument}: {name}:// is no protocol that fsspec knows. Set {argument} to a local "
            f"directory, or to a URL with one of {', '.join(sorted(known))}."
        )
    return (
        f"{argument}={shown(directory)} cannot be opened ({type(error).__name__}: {why}). Correct "
        f"the URL or its credentials, or set {argument} to another directory."
    )


def names_in(opened: Any, path: str) -> list[str]:
    """Returns the names in a remote directory; an empty list if it does not exist."""
    opened.invalidate_cache()
    try:
        return [posixpath.basename(found.rstrip("/")) for found in opened.ls(path, detail=False)]
    except FileNotFoundError:
        return []


class RemoteStorage:
    """A directory of an object store, where each put replaces a whole object at once."""

    def __init__(self, directory: str) -> None:
        self._opened, self._root = filesystem(directory)

    def make(self) -> None:
        """Makes the directory, on stores that have directories."""
        self._opened.makedirs(self._root, exist_ok=True)

    def names(self) -> list[str]:
        """Returns the names in the directory; an empty list if it does not exist."""
        return names_in(self._opened, self._root)

    def files(self) -> list[str]:
        """Returns all objects below the directory; no links, which SFTP has."""
        self._opened.invalidate_cache()
        prefix = f"{self._root}/"
        found = self._opened.find(self._root, detail=True)
        return sorted(
            path.removeprefix(prefix)
            for path, entry in found.items()
            if path.startswith(prefix) and entry["type"] == "file"
        )

    def open(self, path: str) -> BinaryIO:
        """Fetches an object whole."""
        return io.BytesIO(self._opened.cat_file(self._at(path)))

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a small object."""
        data: bytes = self._opened.cat_file(self._at(path), start=0, end=most_bytes + 1)
        return bounded(data, path, most_bytes)

    def create(self, path: str, data: bytes) -> bool:
        """Puts an object unless there is one.

        Most object stores cannot check and put in one operation. If several processes put the
        object at the same time, the last one wins. The others read the object back, find other
        content, and return `False`.
        """
        if self._opened.exists(self._at(path)):
            return False
        self._opened.pipe_file(self._at(path), data)
        return bool(self._opened.cat_file(self._at(path)) == data)

    def replace(self, path: str, data: bytes, mode: int | None = None, sync: bool = True) -> None:
        """Puts an object. Objects have no `mode`, and are stored when the put returns."""
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
        """Returns infinity: the room on an object store is unknown."""
        return float("inf")

    @contextmanager
    def lock(self, seconds: float) -> Iterator[bool]:
        """Yields `False`: object stores have no locks."""
        yield False

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


class _StagedObject:
    """An object that is collected in memory and put when it is complete."""

    def __init__(self, storage: RemoteStorage) -> None:
        self._storage = storage
        self._data = io.BytesIO()

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._data.write(data)

    def publish(self, path: str) -> None:
        """Puts the object."""
        self._storage.replace(path, self._data.getvalue())
