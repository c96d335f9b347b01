"""The file for records that could not be written to the run directory before it was closed."""

import os
import tempfile
from collections.abc import Sequence
from typing import Protocol

from tbtrainer.event_file.event_file import Appended
from tbtrainer.event_file.local_file import LocalEventFile


class FallbackFile(Protocol):
    """A file outside the run directory, created with its first record.

    Attributes:
        advice: What to do with the file: a sentence of a warning.
    """

    advice: str

    @property
    def path(self) -> str | None:
        """The path of the file, or `None` if it could not be created."""

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records and closes the file. A fault is returned and not raised."""


class FallbackEventFile:
    """An event file outside the run directory, created with its first record.

    Args:
        run: Name of the run. The file is in a directory of this name.
        directory: Where that directory is created; `None` for a new directory in the system's
            directory of temporary files.
    """

    advice = "To show them, move this file into the run directory."

    def __init__(self, run: str, directory: str | None) -> None:
        self._run, self._directory = run, directory
        self._file: LocalEventFile | None = None

    @property
    def path(self) -> str | None:
        """The path of the file, or `None` if it could not be created."""
        return self._file.path if self._file is not None else None

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records and closes the file. A fault is returned and not raised."""
        try:
            if self._file is None:
                directory = self._directory or _new_directory()
                # Without a START event, so that the file may be moved into the run directory.
                self._file = LocalEventFile(os.path.join(directory, self._run), continues=True)
            appended = self._file.append(records)
            self._file.close()
        except Exception as fault:
            return Appended(0, fault)
        return appended


class FallbackLines:
    """A file of lines outside the run directory, created with its first line.

    Args:
        run: Name of the run. The file is in a directory of this name.
        name: Name of the file.
    """

    advice = "They are not in the file of this name in the run directory: append them to it."

    def __init__(self, run: str, name: str) -> None:
        self._run, self._name = run, name
        self.path: str | None = None

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes lines and closes the file. A fault is returned and not raised."""
        try:
            if self.path is None:
                folder = os.path.join(_new_directory(), self._run)
                os.mkdir(folder)
                self.path = os.path.join(folder, self._name)
            with open(self.path, "ab") as file:
                file.write(b"".join(records))
        except Exception as fault:
            return Appended(0, fault)
        return Appended(len(records))


def _new_directory() -> str:
    """Makes a directory: other users could occupy a name that they can predict."""
    return tempfile.mkdtemp(prefix="tbtrainer-")
