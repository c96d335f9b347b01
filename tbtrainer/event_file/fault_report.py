"""Warnings about faults of the disk: one when a fault begins, one when it ends, then summaries."""

import logging
import threading
import time

from tbtrainer.event_file.record_queue import Counters
from tbtrainer.event_file.waiting import SILENT_SECONDS, WARNING_SECONDS
from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)


class FaultReport:
    """Logs the faults of one run directory, with a bounded number of warnings.

    The first fault and its end are logged at once. After that a change is logged only if the last
    such warning is `WARNING_SECONDS` old; `note_closed` logs how many faults were left out.

    Args:
        place: The run directory, without credentials.
        queue_bytes: The most bytes of records that are kept during a fault.
    """

    def __init__(self, place: str, queue_bytes: int) -> None:
        self._place = place
        self._mebibytes = queue_bytes / 2**20
        # Callers decide under this lock and log outside of it: a handler of log messages may write
        # to the run from another thread.
        self._lock = threading.Lock()
        self._is_faulty = self._logged_faulty = False
        self._fault_count = self._logged_fault_count = 0
        self._last_warning: float | None = None
        self._ends_logged = 0
        self._logged_dropped = 0
        self._last_dropped_warning: float | None = None
        self._logged_lost: set[str] = set()
        self._logged_unwritten = 0

    def note_append(self, fault: Exception | None, counters: Counters) -> None:
        """Takes the outcome of an append.

        Args:
            fault: Why not everything was written, or `None`.
            counters: What became of the records so far.
        """
        if not self._begins_warning(fault is not None):
            return
        if fault is not None:
            logger.warning(
                "The run cannot be written to %s (%s).%s Training continues. Up to %.0f MiB of "
                "records are kept and written later.",
                self._place,
                redacted_text(str(fault)),
                self._repeated(),
                self._mebibytes,
            )
        else:
            logger.warning(
                "The run is written to %s again: %d records written so far, %d waiting, "
                "%d dropped because the queue was full.",
                self._place,
                counters.written,
                counters.pending,
                counters.dropped,
            )

    def note_silence(self, busy_since: float | None) -> None:
        """Logs that a call of the disk hangs.

        Args:
            busy_since: When the call that lasts now began, as `time.monotonic`; or `None`.
        """
        if busy_since is None or time.monotonic() - busy_since < SILENT_SECONDS:
            return
        if self._begins_warning(True):
            logger.warning(
                "%s has not answered for %.0f seconds.%s Training continues. Up to %.0f MiB of "
                "records are kept and written when it answers.",
                self._place,
                SILENT_SECONDS,
                self._repeated(),
                self._mebibytes,
            )

    def note_dropped(self, counters: Counters) -> None:
        """Logs that records were dropped: the first time, and then seldom.

        Args:
            counters: What became of the records so far.
        """
        with self._lock:
            if counters.dropped <= self._logged_dropped or not _is_old(self._last_dropped_warning):
                return
            self._logged_dropped = counters.dropped
            self._last_dropped_warning = time.monotonic()
        self._warn_of_dropped(counters)

    def note_lost_file(self, what: str) -> None:
        """Logs, once per cause, that another program deleted or changed the event file.

        Args:
            what: What happened to the file, such as "was deleted".
        """
        with self._lock:
            if what in self._logged_lost:
                return
            self._logged_lost.add(what)
        logger.warning(
            "The event file in %s %s. The run continues in a new event file there; records that "
            "were written before are not written again.",
            self._place,
            what,
        )

    def note_closed(self, counters: Counters) -> None:
        """Logs, when the event file is closed, what was left out before.

        Args:
            counters: What became of the records so far.
        """
        with self._lock:
            faults, self._logged_fault_count = (
                self._fault_count - self._logged_fault_count,
                self._fault_count,
            )
            dropped = counters.dropped > self._logged_dropped
            self._logged_dropped = max(self._logged_dropped, counters.dropped)
        if faults:
            logger.warning(
                "Writing to %s failed %d more times since the last warning; %d records are "
                "written now.",
                self._place,
                faults,
                counters.written,
            )
        if dropped:
            self._warn_of_dropped(counters)

    def note_unwritten(self, counters: Counters, is_hung: bool, seconds: float) -> None:
        """Logs how many records wait when a close ran out of time.

        Args:
            counters: What became of the records so far.
            is_hung: Whether the disk does not answer, or else is slow.
            seconds: How long a close waits for a slow disk.
        """
        with self._lock:
            logged, self._logged_unwritten = self._logged_unwritten, counters.pending
        if not counters.pending or counters.pending == logged:
            return
        if is_hung:
            logger.warning(
                "%s does not answer: %d records are not written yet. They are lost if the process "
                "ends before it answers.",
                self._place,
                counters.pending,
            )
        else:
            logger.warning(
                "%s is too slow: %d records are not written after %.0f seconds. They are lost if "
                "the process ends now.",
                self._place,
                counters.pending,
                seconds,
            )

    def note_saved_elsewhere(
        self, saved: int, waiting: int, path: str | None, fault: Exception | None
    ) -> None:
        """Logs where the records are that the run directory did not accept until the end.

        Args:
            saved: How many were saved.
            waiting: Of how many.
            path: The file they are in, if there is one.
            fault: Why not all were saved, or `None`.
        """
        with self._lock:
            self._is_faulty = self._logged_faulty = False
        if saved:
            logger.warning(
                "%s could not be written to until the end; the last %d records are in %s.",
                self._place,
                saved,
                redacted_text(str(path)),
            )
        if fault is not None:
            logger.error(
                "%d records of the run %s are lost: the fallback file could not be written either "
                "(%s).",
                waiting - saved,
                self._place,
                redacted_text(str(fault)),
            )

    def _begins_warning(self, is_faulty: bool) -> bool:
        """Takes the present state. Returns whether it is to be logged now."""
        with self._lock:
            if is_faulty and not self._is_faulty:
                self._fault_count += 1
            self._is_faulty = is_faulty
            if is_faulty == self._logged_faulty:
                return False
            is_first = self._last_warning is None or (not is_faulty and self._ends_logged == 0)
            if not is_first and not _is_old(self._last_warning):
                return False
            self._logged_faulty = is_faulty
            self._last_warning = time.monotonic()
            self._ends_logged += not is_faulty
            return True

    def _repeated(self) -> str:
        """Returns how many faults were not logged, and counts all as logged."""
        with self._lock:
            left_out = self._fault_count - self._logged_fault_count - 1
            self._logged_fault_count = self._fault_count
        return f" This happened {left_out} more times since the last warning." if left_out else ""

    def _warn_of_dropped(self, counters: Counters) -> None:
        logger.warning(
            "%d records of the run %s were dropped so far, because at most %.0f MiB may wait for "
            "the disk; %d are written.",
            counters.dropped,
            self._place,
            self._mebibytes,
            counters.written,
        )


def _is_old(warning: float | None) -> bool:
    """Whether a warning was logged so long ago, or never, that the next may be."""
    return warning is None or time.monotonic() - warning >= WARNING_SECONDS
