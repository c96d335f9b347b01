"""The event files of a run as `tbtrainer doctor` opens them: no link is ever followed."""

import posixpath
from collections.abc import Iterator
from typing import BinaryIO

from tbtrainer.event_file.names import CLAIM, PART_OF_RUN, is_event_file, is_remote
from tbtrainer.event_file.records import size_of
from tbtrainer.event_file.storage import storage_of
from tbtrainer.reading.run_files import EventFile, folder_of


class CheckedFiles:
    """The regular files of a run directory. It is also the `Folder` of `tbtrainer.reading`.

    Args:
        path: The run directory, local or remote. It may itself be a link.

    Attributes:
        path: As it was given.
        storage: Its files, for changes.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.storage = storage_of(path)
        # Remote files are fetched in pieces. `Storage.open` would fetch them whole.
        self._folder = folder_of(path) if is_remote(path) else None

    def open(self, name: str) -> BinaryIO:
        """Opens a regular file; a link, a pipe or a device is an `UnsuitableFile`."""
        return self._folder.open(name) if self._folder is not None else self.storage.open(name)

    def files(self) -> dict[str, int]:
        """Returns paths and sizes of the event files of the run."""
        return {file.name: file.bytes for files in self.event_files().values() for file in files}

    def event_files_below(self) -> list[str]:
        """Returns the paths of the event files of the run."""
        return list(self.files())

    def event_files(self) -> dict[str, list[EventFile]]:
        """Returns the event files of the run by folder, each in the order of the loaders.

        The folder of the run itself is "". Event files in folders below belong to the run if
        tbtrainer wrote them as a part of it, as `add_hparams` and `add_scalars` do.
        """
        found: dict[str, list[EventFile]] = {}
        for path in _of_this_run(self.storage.files()):
            folder, name = posixpath.split(path)
            if is_event_file(name) and (not folder or name.endswith(PART_OF_RUN)):
                found.setdefault(folder, []).append(EventFile(path, self._size(path)))
        return found

    def _size(self, path: str) -> int:
        """Returns the bytes of a file; 0 if it cannot be opened, which the reader then reports."""
        try:
            with self.open(path) as file:
                return size_of(file)
        except OSError:
            return 0


def _of_this_run(paths: list[str]) -> Iterator[str]:
    """Yields the files that are not those of another run in a directory below."""
    others = {posixpath.dirname(path) for path in paths if posixpath.basename(path) == CLAIM}
    others.discard("")
    for path in paths:
        if not any(path.startswith(f"{other}/") for other in others):
            yield path
