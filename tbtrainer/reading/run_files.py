"""The event files of a run directory, in the order in which they are read, and the runs below it.

A run is what it is for TensorBoard: a directory that has event files directly in it. The event
files of a directory below belong to a run of their own.
"""

import os
import posixpath
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from tbtrainer.event_file.names import (
    is_event_file,
    is_remote,
    is_removed,
    was_removed_from,
    without_local_scheme,
)
from tbtrainer.reading.path_errors import does_not_exist, is_a_file
from tbtrainer.redaction import shown

# How many runs an error names.
_NAMED_RUNS = 10
# More of a file beside the event files is not read. tbtrainer writes at most 1 MiB.
MOST_BYTES = 2**24


class NotARun(FileNotFoundError):
    """A directory has no event files directly in it.

    Attributes:
        runs: The runs below it, as paths. May be empty.
    """

    def __init__(self, message: str, runs: list[str]) -> None:
        super().__init__(message)
        self.runs = runs


@dataclass(frozen=True)
class EventFile:
    """An event file of a run.

    Attributes:
        name: Its name in the run directory.
        bytes: Its size when the run was opened.
        removed_from: The event file from which a rewind took out what this file holds; `None` for
            an event file. Empty if that file does not exist any more.
    """

    name: str
    bytes: int
    removed_from: str | None = None


class Folder(Protocol):
    """A directory that is read, local or remote."""

    path: str

    def files(self) -> dict[str, int]:
        """Returns names and sizes of the regular files in the directory.

        Raises:
            FileNotFoundError: There is no such directory.
            NotADirectoryError: It is a file.
        """

    def event_files_below(self) -> list[str]:
        """Returns the paths, relative to the directory, of all event files in it and below."""

    def open(self, name: str) -> BinaryIO:
        """Opens a regular file."""


class LocalFolder:
    """A directory of the file system."""

    def __init__(self, path: str) -> None:
        self.path = path

    def files(self) -> dict[str, int]:
        """Returns names and sizes; links to regular files are followed."""
        if os.path.isfile(self.path):
            raise is_a_file(self.path)
        if not os.path.lexists(self.path):
            raise does_not_exist(self.path)
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                # A training may remove a file meanwhile.
                with suppress(FileNotFoundError):
                    if entry.is_file():
                        found[entry.name] = entry.stat().st_size
        return found

    def event_files_below(self) -> list[str]:
        """Returns the event files in the directory and below. Links to directories are ignored."""
        found = []
        for place, _, names in os.walk(self.path):
            folder = os.path.relpath(place, self.path)
            found += [os.path.normpath(f"{folder}/{n}") for n in names if is_event_file(n)]
        return sorted(found)

    def open(self, name: str) -> BinaryIO:
        """Opens a regular file. A pipe, which would be waited for, is an `OSError`."""
        place = os.path.join(self.path, name)
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{shown(place)} is not a regular file")
        return os.fdopen(descriptor, "rb")


def folder_of(path: str | os.PathLike[str]) -> Folder:
    """Returns a directory: a local path, or a URL that fsspec knows."""
    path = without_local_scheme(os.fspath(path))
    if is_remote(path):
        # Imported here, because fsspec takes longer to import than most runs to read.
        from tbtrainer.reading.remote_folder import RemoteFolder

        return RemoteFolder(path)
    return LocalFolder(os.path.expanduser(path))


def find_runs(path: str | os.PathLike[str]) -> list[str]:
    """Returns the runs in a directory and below it: every directory that has event files.

    Args:
        path: A local directory, or a URL that fsspec knows.

    Returns:
        The paths of the runs, sorted; each can be given to `read_run`. Empty if there are none.

    Raises:
        FileNotFoundError: There is no such directory.
        NotADirectoryError: It is a file.
        ValueError: fsspec cannot open the URL.
    """
    folder = folder_of(path)
    folder.files()
    found = {posixpath.dirname(file) for file in folder.event_files_below()}
    return [posixpath.join(folder.path, name) if name else folder.path for name in sorted(found)]


def event_files(folder: Folder, *, with_removed: bool) -> list[EventFile]:
    """Returns the event files of a run, in the order of TensorBoard's loaders: by name.

    Args:
        folder: The run directory.
        with_removed: Whether files are returned, too, that hold what rewinds took out. Each follows
            the file that it was taken from.

    Raises:
        FileNotFoundError: There is no such directory.
        NotADirectoryError: It is a file.
        NotARun: It has no event files. The message names the runs below it.
    """
    sizes = folder.files()
    names = sorted(filter(is_event_file, sizes))
    if not names:
        raise _not_a_run(folder)
    removed = sorted(n for n in sizes if is_removed(n) and "events" in n) if with_removed else []
    found = []
    for name in names:
        found.append(EventFile(name, sizes[name]))
        taken = [other for other in removed if was_removed_from(other, name)]
        found += [EventFile(other, sizes[other], removed_from=name) for other in taken]
        removed = [other for other in removed if other not in taken]
    alone = [EventFile(other, sizes[other], removed_from="") for other in removed]
    return [*alone, *found]


def _not_a_run(folder: Folder) -> NotARun:
    runs = find_runs(folder.path)
    where = f"{shown(folder.path)} has no event files"
    if not runs:
        return NotARun(f"{where}, and there is none in the directories below it.", runs)
    named = ", ".join(map(shown, runs[:_NAMED_RUNS]))
    more = f", and {len(runs) - _NAMED_RUNS} more" if len(runs) > _NAMED_RUNS else ""
    are = "is the run" if len(runs) == 1 else "are the runs"
    advice = "Name one of them; tbtrainer.reading.find_runs returns all."
    return NotARun(f"{where} itself. Below it {are} {named}{more}. {advice}", runs)
