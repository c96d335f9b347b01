"""The interface of an event file, to which records are appended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Appended:
    """Result of `EventFile.append`.

    Attributes:
        records: The first `records` of those given are in the file whole; the others are not in it.
        fault: Why not all of them are, or `None`.
        lost_file: What happened to the file written so far, if another program deleted or changed
            it and a new one was begun, as a phrase such as "was deleted"; otherwise `None`.
    """

    records: int
    fault: Exception | None = None
    lost_file: str | None = None


class EventFile(Protocol):
    """Takes records; one class for local directories and one for object stores.

    Attributes:
        path: The file that is written to now, or `None` before the first record.
        seconds_between_appends: How long to collect records between two appends.
        hung_after_seconds: A call that takes longer counts as hung: no caller waits for it.
    """

    path: str | None
    seconds_between_appends: float
    hung_after_seconds: float

    def append(self, records: Sequence[bytes]) -> Appended:
        """Writes records. Returns faults in the result and does not raise them."""

    def sync(self) -> None:
        """Forces what was appended to the disk. Raises an `OSError` if that fails."""

    def close(self) -> None:
        """Closes what is open. The next `append` opens it again."""


def first_start_step(purge_step: int | None, is_empty_directory: bool) -> int | None:
    """Returns the step of the START record with which the first file of a session begins.

    TensorBoard's loaders in Python hide the steps from a START on in all that they have read
    before. So only a session that replaces steps of an earlier one may write its step. Files that a
    session begins later have no START at all: they replace nothing.

    Args:
        purge_step: First step of earlier sessions that this session replaces, or `None`.
        is_empty_directory: Whether the run directory has no event file yet.

    Returns:
        The step, or `None` for a file without START.
    """
    if purge_step is not None:
        return purge_step
    return 0 if is_empty_directory else None
