"""A file of JSON lines in a run directory, local or remote, replaced whole with each append."""

import logging
from collections.abc import Sequence

from tbtrainer.event_file.event_file import Appended
from tbtrainer.event_file.json_lines import JSON_LINES_END, MOST_BYTES, lines_of_a_run
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.remote_file import seconds_between_puts
from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.storage_protocol import Storage, UnsuitableFile
from tbtrainer.event_file.waiting import HUNG_SECONDS, REMOTE_HUNG_SECONDS
from tbtrainer.redaction import shown

logger = logging.getLogger(__name__)

# How many numbered names are tried if other files have the name.
_NAMES = 10


class JsonLinesFile:
    """Appends lines to a small file. It has the interface of an `EventFile`.

    An existing file of lines is read with the first append, and its lines are kept. Anything else
    under the name of the file stays as it is: a link, a file that is too long, a file of another
    program. The lines are then written to a file with a number in its name.

    Args:
        directory: The run directory. It is created with the first line.
        name: Name of the file.
        mode: Permissions of a local file, before the process's umask.
        sync: Whether a local file is forced to the disk with each append. That can take seconds
            while a checkpoint is being written, and the disk then counts as hung.
    """

    def __init__(self, directory: str, name: str, mode: int, sync: bool) -> None:
        self.path: str | None = None
        self._directory, self._name, self._mode = directory, name, mode
        self._sync = sync
        # Name and content of the file; `None` before the first append, and after a close.
        self._found: tuple[str, bytes] | None = None
        self._is_full = False
        self._warned_of: set[str] = set()
        remote = is_remote(directory)
        self.seconds_between_appends = seconds_between_puts(directory) if remote else 0.0
        self.hung_after_seconds = REMOTE_HUNG_SECONDS if remote else HUNG_SECONDS

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes the file with more lines.

        Lines for which the file has no room are left out, and count as written.

        Args:
            records: Lines with their line breaks.
        """
        try:
            storage = storage_of(self._directory)
            if self._found is None:
                self._found = self._readable_file(storage)
            name, content = self._found
            longer = self._with_room(content, records)
            if longer != content:
                storage.make()
                storage.replace(name, longer, self._mode, self._sync)
        except Exception as fault:  # Every object store has exceptions of its own.
            return Appended(0, fault)
        self._found = name, longer
        self.path = f"{self._directory.rstrip('/')}/{name}"
        return Appended(len(records))

    def sync(self) -> None:
        """Does nothing: with `sync` each append forces the file to the disk."""

    def close(self) -> None:
        """Discards the content that was read. The next `append` reads the file again."""
        self._found = None

    def _readable_file(self, storage: Storage) -> tuple[str, bytes]:
        """Returns name and content of the file to append to, which need not exist."""
        why = ""
        for number in range(_NAMES):
            name = self._numbered(number)
            try:
                lines = lines_of_a_run(storage.read(name, MOST_BYTES))
            except FileNotFoundError:
                lines = []
            except (UnsuitableFile, PermissionError) as fault:
                lines, why = None, why or shown(fault)
            if lines is not None:
                if number:
                    self._warn_of_other_name(name, why)
                return name, b"".join(lines)
            why = why or f"{self._name} has lines of another form"
        raise OSError(f"{self._name} and {_NAMES - 1} numbered files are not of this run ({why})")

    def _numbered(self, number: int) -> str:
        stem = self._name.removesuffix(JSON_LINES_END)
        return f"{stem}-{number}{JSON_LINES_END}" if number else self._name

    def _warn_of_other_name(self, name: str, why: str) -> None:
        if name not in self._warned_of:
            self._warned_of.add(name)
            logger.warning(
                "%s in %s is not a file of this run (%s). It stays as it is, and the lines are "
                "written to %s beside it.",
                self._name,
                shown(self._directory),
                why,
                name,
            )

    def _with_room(self, content: bytes, records: Sequence[bytes]) -> bytes:
        """Returns the content with those lines at its end for which there is room."""
        lines = [content]
        room = MOST_BYTES - len(content)
        for line in records:
            if self._is_full or len(line) > room:
                self._warn_of_full_file()
            else:
                lines.append(line)
                room -= len(line)
        return b"".join(lines)

    def _warn_of_full_file(self) -> None:
        if not self._is_full:
            self._is_full = True
            logger.warning(
                "%s in %s would become longer than %d bytes with the next line. This line and "
                "later ones are left out. Training continues.",
                self._name,
                shown(self._directory),
                MOST_BYTES,
            )
