"""A run directory on an object store that is read, through fsspec."""

import posixpath
from collections.abc import Iterable
from typing import Any, BinaryIO

from tbtrainer.event_file.names import is_event_file
from tbtrainer.event_file.remote_storage import filesystem


class RemoteFolder:
    """A directory of an object store, through fsspec."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._opened, self._root = filesystem(url, argument="path")

    def files(self) -> dict[str, int]:
        """Returns names and sizes of the objects."""
        self._opened.invalidate_cache()
        entries: Iterable[dict[str, Any]] = self._opened.ls(self._root, detail=True)
        return {
            posixpath.basename(entry["name"]): int(entry["size"] or 0)
            for entry in entries
            if entry["type"] == "file"
        }

    def event_files_below(self) -> list[str]:
        """Returns the event files in the directory and below."""
        self._opened.invalidate_cache()
        prefix = f"{self._root}/"
        paths = [p.removeprefix(prefix) for p in self._opened.find(self._root)]
        return sorted(path for path in paths if is_event_file(posixpath.basename(path)))

    def open(self, name: str) -> BinaryIO:
        """Opens an object. It is fetched in pieces."""
        opened: BinaryIO = self._opened.open(f"{self._root}/{name}", "rb")
        return opened
