"""Logs faults of the disk: when the first begins, when it ends, and later ones in summaries."""

import logging
import threading
import time

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.fallback import FallbackFile
from tbtrainer.event_file.waiting import SILENT_SECONDS, WARNING_SECONDS
from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)


class FaultReport:
    """Logs the faults of one run directory, with a bounded number of warnings.

    The first fault and its end are logged at once. After that, the beginning or the end of a fault
    is logged only if the last such warning is at least `WARNING_SECONDS` old. `note_closed` logs
    how many faults were not logged.

    Args:
        place: The run directory without secrets.
        queue_bytes: The most bytes of records that are kept during a fault.
    """

    def __init__(self, place: str, queue_bytes: int) -> None:
        self._place = place
        self._mebibytes = queue_bytes / 2**20
        # What to log is decided under this lock. It is logged after the lock is released, because a
        # handler of log messages may write to the run from another thread.
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
        """Logs the beginning or the end of a fault, after an append.

        Args:
            fault: Why not all records were written, or `None`.
            counters: How many records were written, wait, or were dropped so far.
        """
        if not self._begins_warning(fault is not None):
            return
        if fault is not None:
            logger.warning(
                "The run cannot be written to %s (%s).%s Training continues. Up to %.0f MiB of "
                "records are kept in memory and written as soon as the directory can be written "
                "to. Check its disk, its permissions and its free space.",
                self._place,
                redacted_text(str(fault)),
                self._repeated(),
                self._mebibytes,
            )
        else:
            logger.warning(
                "The run is written to %s again. So far %d records were written, %d wait, and %d "
                "were dropped because the queue was full.",
                self._place,
                counters.written,
                counters.pending,
                counters.dropped,
            )

    def note_silence(self, busy_since: float | None) -> None:
        """Logs that a call of the disk hangs.

        Args:
            busy_since: When the running call began, by `time.monotonic`; `None` if none is running.
        """
        if busy_since is None or time.monotonic() - busy_since < SILENT_SECONDS:
            return
        if self._begins_warning(True):
            logger.warning(
                "%s has not answered for %.0f seconds.%s Training continues. Up to %.0f MiB of "
                "records are kept in memory and written when it answers. Check its disk or mount.",
                self._place,
                SILENT_SECONDS,
                self._repeated(),
                self._mebibytes,
            )

    def note_dropped(self, counters: Counters) -> None:
        """Logs that records were dropped: at once the first time, then every `WARNING_SECONDS`.

        Args:
            counters: How many records were written, wait, or were dropped so far.
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
            what: What happened to the file: a phrase such as "was deleted".
        """
        with self._lock:
            if what in self._logged_lost:
                return
            self._logged_lost.add(what)
        logger.warning(
            "The event file in %s %s. Training continues, and later records are written to a new "
            "event file there. Records that were in the old file are not written again. If the "
            "whole directory was deleted, a training that is resumed later begins a new run.",
            self._place,
            what,
        )

    def note_unsynced(self, path: str | None, error: Exception) -> None:
        """Logs that the event file could not be forced to the disk.

        Args:
            path: The event file.
            error: Why it could not be forced to the disk.
        """
        logger.warning(
            "%s could not be forced to the disk (%s). Training continues. The records are written, "
            "but a power cut may lose them.",
            redacted_text(str(path)),
            redacted_text(str(error)),
        )

    def note_closed(self, counters: Counters) -> None:
        """Logs, when the event file is closed, the faults and dropped records not logged before.

        Args:
            counters: How many records were written, wait, or were dropped so far.
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
                "Writing to %s failed %d more times since the last warning. %d records are "
                "written now.",
                self._place,
                faults,
                counters.written,
            )
        if dropped:
            self._warn_of_dropped(counters)

    def note_unwritten(self, counters: Counters, is_hung: bool, seconds: float) -> None:
        """Logs how many records still wait when the time to close has run out.

        Args:
            counters: How many records were written, wait, or were dropped so far.
            is_hung: Whether the disk does not answer; otherwise it is slow.
            seconds: How long a close waits for a slow disk.
        """
        with self._lock:
            logged, self._logged_unwritten = self._logged_unwritten, counters.pending
        if not counters.pending or counters.pending == logged:
            return
        if is_hung:
            logger.warning(
                "%s does not answer: %d records are not written yet. They are written when it "
                "answers, and lost if the process ends before that.",
                self._place,
                counters.pending,
            )
        else:
            logger.warning(
                "%s is too slow: %d records are not written after %.0f seconds. They are written "
                "while the process runs, and lost if it ends now.",
                self._place,
                counters.pending,
                seconds,
            )

    def note_saved_elsewhere(
        self, saved: int, waiting: int, file: FallbackFile, fault: Exception | None
    ) -> None:
        """Logs which records were written to the fallback file, and which are lost.

        Args:
            saved: How many records were written to the fallback file.
            waiting: How many records there were to write.
            file: The fallback file.
            fault: Why not all were written, or `None`.
        """
        with self._lock:
            self._is_faulty = self._logged_faulty = False
        if saved:
            logger.warning(
                "%s could not be written to when the run was closed. Its last %d records are in "
                "%s. %s",
                self._place,
                saved,
                redacted_text(str(file.path)),
                file.advice,
            )
        if fault is not None:
            logger.error(
                "%d records of the run %s are lost: the fallback file in the directory for "
                "temporary files could not be written either (%s). For later runs, free space "
                "there or set TMPDIR.",
                waiting - saved,
                self._place,
                redacted_text(str(fault)),
            )

    def _begins_warning(self, is_faulty: bool) -> bool:
        """Stores whether there is a fault now. Returns whether that is to be logged."""
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
        """Returns a sentence with how many faults were not logged, and counts them as logged."""
        with self._lock:
            left_out = self._fault_count - self._logged_fault_count - 1
            self._logged_fault_count = self._fault_count
        return f" This happened {left_out} more times since the last warning." if left_out else ""

    def _warn_of_dropped(self, counters: Counters) -> None:
        logger.warning(
            "%d records of the run %s were dropped so far, because at most %.0f MiB may wait for "
            "the disk. %d are written. Training continues.",
            counters.dropped,
            self._place,
            self._mebibytes,
            counters.written,
        )


def _is_old(warning: float | None) -> bool:
    """Whether a warning was never logged, or at least `WARNING_SECONDS` ago."""
    return warning is None or time.monotonic() - warning >= WARNING_SECONDS
