"""The file for records that could not be written to the run directory before it was closed."""

import os
import tempfile
from collections.abc import Sequence

from tbtrainer.event_file.event_file import Appended
from tbtrainer.event_file.local_file import LocalEventFile


class FallbackFile:
    """An event file outside the run directory, created with its first record.

    Args:
        run: Name of the run. The file is in a directory of this name.
        directory: Where that directory is created; `None` for a new directory in the system's
            directory of temporary files.
    """

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
                # A new directory: other users could occupy a name that they can predict.
                directory = self._directory or tempfile.mkdtemp(prefix="tbtrainer-")
                # Without a START record, so that the file may be moved into the run directory.
                self._file = LocalEventFile(os.path.join(directory, self._run), continues=True)
            appended = self._file.append(records)
            self._file.close()
        except Exception as fault:
            return Appended(0, fault)
        return appended
