"""A run directory on an object store that is read, through fsspec."""

import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from tbtrainer.event_file.names import is_event_file
from tbtrainer.event_file.remote_storage import filesystem
from tbtrainer.reading.path_errors import does_not_exist, is_a_file
from tbtrainer.redaction import shown


class RemoteFolder:
    """A directory of an object store, through fsspec."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._opened, self._root = filesystem(url, argument="path")

    def files(self) -> dict[str, int]:
        """Returns names and sizes of the objects."""
        try:
            with _as_os_error():
                self._opened.invalidate_cache()
                entries: list[dict[str, Any]] = self._opened.ls(self._root, detail=True)
        except FileNotFoundError:
            raise does_not_exist(self.path) from None
        files = {
            entry["name"].strip("/"): int(entry.get("size") or 0)
            for entry in entries
            if entry["type"] == "file"
        }
        # The listing of an object is the object. One without content may stand for a directory.
        own_size = files.pop(self._root.strip("/"), None)
        if own_size and len(entries) == 1:
            raise is_a_file(self.path)
        return {posixpath.basename(name): size for name, size in files.items()}

    def event_files_below(self) -> list[str]:
        """Returns the event files in the directory and below."""
        prefix = f"{self._root}/"
        with _as_os_error():
            self._opened.invalidate_cache()
            paths = [p.removeprefix(prefix) for p in self._opened.find(self._root)]
        return sorted(path for path in paths if is_event_file(posixpath.basename(path)))

    def open(self, name: str) -> BinaryIO:
        """Opens an object. It is fetched in pieces. Every error of its store is an `OSError`."""
        with _as_os_error():
            opened: BinaryIO = self._opened.open(f"{self._root}/{name}", "rb")
            return cast(BinaryIO, _RemoteFile(opened))


class _RemoteFile(io.RawIOBase):
    """An object that is open, whose errors are `OSError`."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened

    def read(self, size: int = -1) -> bytes:
        with _as_os_error():
            return self._opened.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _as_os_error():
            return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def close(self) -> None:
        self._opened.close()
        super().close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Every object store has exceptions of its own, whose texts may have secrets."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {shown(error)}") from None
