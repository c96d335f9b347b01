"""Where records go that the run directory did not accept until the end."""

import os
import tempfile
from collections.abc import Sequence

from tbtrainer.event_file.event_file import Appended
from tbtrainer.event_file.local_file import LocalEventFile


class FallbackFile:
    """An event file outside of the run directory, made with the first record.

    Args:
        run: Name of the run: the file is in a directory of this name.
        directory: Where that directory is made; `None` for a new directory among the system's
            temporary files.
    """

    def __init__(self, run: str, directory: str | None) -> None:
        self._run, self._directory = run, directory
        self._file: LocalEventFile | None = None

    @property
    def path(self) -> str | None:
        """The file, or `None` if none could be made."""
        return self._file.path if self._file is not None else None

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records and closes the file. Returns faults and does not raise them."""
        try:
            if self._file is None:
                # A new directory: other users could prepare a name that they can predict.
                directory = self._directory or tempfile.mkdtemp(prefix="tbtrainer-")
                # Without START, so that the file may be moved into the run directory.
                self._file = LocalEventFile(os.path.join(directory, self._run), continues=True)
            appended = self._file.append(records)
            self._file.close()
        except Exception as fault:
            return Appended(0, fault)
        return appended
