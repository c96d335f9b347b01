"""The event file of a run directory on an object store, written as several parts."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

from tbtrainer.event_file.event_file import Appended, first_start_step
from tbtrainer.event_file.names import event_file_name, is_event_file
from tbtrainer.event_file.records import file_header
from tbtrainer.event_file.remote_storage import filesystem, names_in
from tbtrainer.event_file.waiting import REMOTE_HUNG_SECONDS

# Objects cannot be appended to. So the newest part is put again with more records each time. Once
# it has this size, the next part is begun.
_PART_BYTES = 4 * 2**20
# On the Hugging Face Hub every put is a commit, so records are collected for longer.
_SECONDS_BETWEEN_PUTS = {"hf": 60.0}
_OTHER_SECONDS_BETWEEN_PUTS = 10.0
_numbers = itertools.count()


def seconds_between_puts(url: str) -> float:
    """Returns how long records for an object store are collected between two puts."""
    return _SECONDS_BETWEEN_PUTS.get(url.split("://", 1)[0], _OTHER_SECONDS_BETWEEN_PUTS)


class RemoteEventFile:
    """Puts records into parts of a few megabytes. Each part is a complete event file.

    Args:
        directory: URL of the run directory.
        purge_step: First step of earlier sessions that this session replaces, or `None`.
        suffix: End of the parts' names.
        continues: Whether the session has written another file already, so that the first part
            here has no START event.
    """

    hung_after_seconds = REMOTE_HUNG_SECONDS

    def __init__(
        self,
        directory: str,
        purge_step: int | None = None,
        suffix: str = "",
        continues: bool = False,
    ) -> None:
        self.path: str | None = None
        self._directory, self._suffix = directory, suffix
        self._purge_step, self._continues = purge_step, continues
        # The header of the newest part, and its whole content so far.
        self._header = self._part = b""
        self.seconds_between_appends = seconds_between_puts(directory)

    def append(self, records: Sequence[bytes]) -> Appended:
        """Puts the newest part again, with the records added at its end.

        Args:
            records: Whole records.
        """
        try:
            opened, directory = filesystem(self._directory)
            if self.path is None or len(self._part) >= _PART_BYTES:
                self._begin_part(opened, directory)
            longer = b"".join((self._part or self._header, *records))
            opened.pipe_file(self.path, longer)
        except Exception as fault:  # Every store has exceptions of its own.
            return Appended(0, fault)
        self._part = longer
        self._continues = True
        return Appended(len(records))

    def sync(self) -> None:
        """Does nothing, because a part that was put is stored."""

    def close(self) -> None:
        """Does nothing, because objects are not kept open."""

    def _begin_part(self, opened: Any, directory: str) -> None:
        opened.makedirs(directory, exist_ok=True)
        newest = [os.path.basename(self.path)] if self.path else []
        existing = names_in(opened, directory) + newest
        is_empty = not any(map(is_event_file, existing))
        start = None if self._continues else first_start_step(self._purge_step, is_empty)
        name = event_file_name(existing, next(_numbers))
        self.path = f"{directory}/{name}{self._suffix}"
        self._header, self._part = file_header(start), b""
