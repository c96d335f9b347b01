"""What is said about a fault of the disk: one warning when it begins and one when it is over."""

import logging
import time

from tbtrainer.event_file.record_queue import Counters
from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)

# A write that takes longer is said to hang.
_SILENT_SECONDS = 5.0


class FaultReport:
    """Says once that a fault began, and once that it is over.

    Args:
        place: The run directory, as it may be shown.
        queue_bytes: The most bytes of records that wait meanwhile.
    """

    def __init__(self, place: str, queue_bytes: int) -> None:
        self._place = place
        self._mebibytes = queue_bytes / 2**20
        self._was_told = False
        self._told_left = 0

    def note(self, fault: Exception | None, counters: Counters) -> None:
        """Takes the outcome of a write.

        Args:
            fault: What kept it from being whole, or `None`.
            counters: What became of the records so far.
        """
        was_told, self._was_told = self._was_told, fault is not None
        if fault is not None and not was_told:
            logger.warning(
                "The run cannot be written to %s (%s). Training goes on; records are kept, up to "
                "%.0f MiB, and written when it can be written to again.",
                self._place,
                redacted_text(str(fault)),
                self._mebibytes,
            )
        if fault is None and was_told:
            logger.warning(
                "The run is written to %s again: %d records written so far, %d waiting, "
                "%d dropped for want of room.",
                self._place,
                counters.written,
                counters.pending,
                counters.dropped,
            )

    def note_silence(self, busy_since: float | None) -> None:
        """Says that a write hangs.

        Args:
            busy_since: When the write that is going on began, as `time.monotonic`; or `None`.
        """
        if busy_since is None or time.monotonic() - busy_since < _SILENT_SECONDS or self._was_told:
            return
        self._was_told = True
        logger.warning(
            "%s has not answered for %.0f seconds. Training goes on; records are kept, up to "
            "%.0f MiB, and written when it does.",
            self._place,
            _SILENT_SECONDS,
            self._mebibytes,
        )

    def note_unanswered(self, counters: Counters) -> None:
        """Says what waits at the end of a run on a disk that does not answer."""
        told, self._told_left = self._told_left, counters.pending
        if counters.pending and counters.pending != told:
            logger.warning(
                "%s does not answer: %d records wait there unwritten, and are lost if the process "
                "ends before it does.",
                self._place,
                counters.pending,
            )

    def note_saved_elsewhere(
        self, saved: int, waiting: int, path: str | None, fault: Exception | None
    ) -> None:
        """Says where the records of a directory that took none at the end are.

        Args:
            saved: How many were saved.
            waiting: Of how many.
            path: The file they are in, if there is one.
            fault: Why not all were saved, or `None`.
        """
        self._was_told = False
        if saved:
            logger.warning(
                "%s could not be written to until the end; the last %d records are in %s.",
                self._place,
                saved,
                redacted_text(str(path)),
            )
        if fault is not None:
            logger.error(
                "%d records of the run %s are lost: what was to take them failed, too (%s).",
                waiting - saved,
                self._place,
                redacted_text(str(fault)),
            )
