"""The files of a run directory on an object store, through fsspec."""

import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from tbtrainer.event_file.storage_protocol import bounded


def filesystem(directory: str) -> tuple[Any, str]:
    """Opens the file system of a remote run directory.

    Args:
        directory: A URL such as `s3://bucket/run`.

    Returns:
        The fsspec file system, and the directory's path in it.

    Raises:
        ValueError: fsspec does not know the protocol, or the package for it is not installed.
    """
    protocol = directory.split("://", 1)[0]
    try:
        opened, path = url_to_fs(directory)
    except ImportError as error:
        raise ValueError(
            f"logging_dir: {protocol}:// needs a package that is not installed: {error}"
        ) from error
    except ValueError as error:
        if protocol in fsspec.available_protocols():
            raise
        raise ValueError(
            f"logging_dir: {protocol}:// is no protocol that fsspec knows. Name a local directory "
            f"or one of {', '.join(sorted(fsspec.available_protocols()))}."
        ) from error
    return opened, path.rstrip("/")


def names_in(opened: Any, path: str) -> list[str]:
    """Names of what lies in a remote directory; none if it does not exist."""
    opened.invalidate_cache()
    try:
        return [posixpath.basename(found.rstrip("/")) for found in opened.ls(path, detail=False)]
    except FileNotFoundError:
        return []


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
        return bounded(data, path, most_bytes)

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
