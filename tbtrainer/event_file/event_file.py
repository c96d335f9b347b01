"""The interface of an event file, local or remote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Appended:
    """Result of `EventFile.append`.

    Attributes:
        records: How many of the given records were written whole. The others are not in the file.
        fault: Why not all records were written, or `None`.
        lost_file: What another program did to the previous file, so that a new one was begun: a
            phrase such as "was deleted". `None` if that did not happen.
    """

    records: int
    fault: Exception | None = None
    lost_file: str | None = None


class EventFile(Protocol):
    """A file to which records are appended. `LocalEventFile` and `RemoteEventFile` implement it.

    Attributes:
        path: The current file, or `None` before the first record.
        seconds_between_appends: How long records are collected between two appends.
        hung_after_seconds: A call that takes longer counts as hung, and callers stop waiting.
    """

    path: str | None
    seconds_between_appends: float
    hung_after_seconds: float

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records. A fault is returned in the result and not raised."""

    def sync(self) -> None:
        """Forces what was appended to the disk. Raises an `OSError` if that fails."""

    def close(self) -> None:
        """Closes the file. The next `append` opens it again."""


def first_start_step(purge_step: int | None, is_empty_directory: bool) -> int | None:
    """Returns the step of the START event with which the first file of a session begins.

    When TensorBoard's loaders in Python read a START event, they hide events of this step and
    later ones in the files that they have read before. So only a session that replaces steps of
    earlier sessions writes its step. The later files of a session have no START event.

    Args:
        purge_step: First step of earlier sessions that this session replaces, or `None`.
        is_empty_directory: Whether the run directory has no event file yet.

    Returns:
        The step, or `None` for a file without a START event.
    """
    if purge_step is not None:
        return purge_step
    return 0 if is_empty_directory else None
