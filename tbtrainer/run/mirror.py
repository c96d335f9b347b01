"""Copies scalars and histograms to the run of another tracker, in a thread of its own."""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tbtrainer.event_file.bounded_queue import BoundedQueue
from tbtrainer.event_file.writer import this_process
from tbtrainer.isolation import Isolation
from tbtrainer.records import Histogram
from tbtrainer.run.tracker import Tracker

logger = logging.getLogger(__name__)

# The most memory of the values that wait for a tracker.
QUEUE_BYTES = 32 * 2**20
# The memory of a scalar without its tag, and what a histogram takes more than its two arrays.
# Measured with CPython 3.11 and NumPy 2; a test measures it again.
SCALAR_BYTES, HISTOGRAM_BYTES = 350, 450
# What is sent together. A row is not larger than this: wandb refuses rows of more than 10 MB, and a
# number of 8 bytes has up to 25 characters in its JSON.
BATCH_BYTES = 2**20
# How long values are collected: those of one step then make one row.
GATHER_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Value:
    """A value on its way to a tracker.

    Attributes:
        run: The tracker's run that was current when the value was logged.
        step: Optimizer steps taken.
        tag: Name of the curve or histogram.
        value: What is shown.
    """

    run: Any
    step: int
    tag: str
    value: float | Histogram


@dataclass
class RowOfRun:
    """Values of one run and one step, each tag once.

    Attributes:
        run: The tracker's run.
        step: Optimizer steps taken.
        values: By tag.
    """

    run: Any
    step: int
    values: dict[str, float | Histogram] = field(default_factory=dict)


def size_of(value: Value) -> int:
    """Returns about how much memory a value takes in the queue, in bytes."""
    size = SCALAR_BYTES + len(value.tag)
    if isinstance(value.value, Histogram):
        arrays = value.value.bucket_limits.nbytes + value.value.bucket_counts.nbytes
        size += HISTOGRAM_BYTES + arrays
    return size


def rows_of(values: Iterable[Value]) -> list[RowOfRun]:
    """Returns values as rows, in the order in which the rows begin.

    A tag that comes twice at one step, as after two evaluations, is in two rows.
    """
    rows: list[RowOfRun] = []
    latest: dict[tuple[int, int], RowOfRun] = {}
    for value in values:
        key = id(value.run), value.step
        row = latest.get(key)
        if row is None or value.tag in row.values:
            row = latest[key] = RowOfRun(value.run, value.step)
            rows.append(row)
        row.values[value.tag] = value.value
    return rows


class Mirror:
    """Sends values to one tracker, in a thread that ends when none is left.

    Only `close` waits for the tracker. If more than `QUEUE_BYTES` wait, the oldest values are
    dropped, histograms first. A warning says so, and `close` says how many are missing; the event
    file has all of them. An error of the tracker goes to `isolation`, and later values are sent
    nevertheless.

    A copy of a mirror, as in a copy of a trainer, sends the values that it is given, and not those
    that wait in the original. A copy in another process sends nothing.

    Args:
        tracker: Where the values go.
        isolation: What happens to an error.
    """

    def __init__(self, tracker: Tracker, isolation: Isolation) -> None:
        self.tracker = tracker
        self._isolation = isolation
        self._process = this_process()
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: BoundedQueue[Value] = BoundedQueue(QUEUE_BYTES, size_of)
        self._thread: threading.Thread | None = None
        # Whether the waiting values are to be sent now.
        self._is_due = False
        # Whether `close` waited in vain, and no row has been sent since.
        self._is_hung = False
        # Values that met an error of the tracker.
        self._failed = 0
        # How many values were missing when a warning said so last.
        self._known_missing = 0
        # An error that `isolation` raised in the thread, for the next caller.
        self._raised: Exception | None = None
        self._warned_of: set[str] = set()

    def put(self, value: Value) -> None:
        """Adds a value. The thread sends it."""
        if self._process != this_process():
            return
        with self._changed:
            self._queue.put(value, is_scalar=not isinstance(value.value, Histogram))
            has_dropped = self._queue.has_dropped
            if self._thread is None or not self._thread.is_alive():
                # A daemon, so that a tracker that hangs does not keep the process from ending.
                thread = threading.Thread(
                    target=self._send_waiting, name=f"tbtrainer-{self.tracker.name}", daemon=True
                )
                thread.start()
                self._thread = thread
        # Without the lock: a tracker may take what is logged, and hang there.
        if has_dropped:
            self.warn_once(
                f"{self.tracker.name} takes values more slowly than they are logged, or not at "
                f"all. More than {QUEUE_BYTES / 2**20:.0f} MiB wait for it, so the oldest are "
                "dropped, histograms first. The event file has all of them. How many are missing "
                "is logged at the end."
            )

    def flush(self) -> None:
        """Makes the thread send the waiting values now, and does not wait for it.

        Raises:
            Exception: An error of the tracker, with `telemetry_errors="raise"`.
        """
        if self._process != this_process():
            return
        with self._changed:
            self._is_due = self._thread is not None
            self._changed.notify_all()
            raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def close(self, seconds: float) -> None:
        """Waits until all values are sent, and warns if some are not.

        Args:
            seconds: The longest wait. After one that was too short it does not wait until the
                tracker has taken a row.

        Raises:
            Exception: As `flush`.
        """
        if self._process != this_process():
            return
        if not self._is_hung:
            self.flush()
            with self._changed:
                self._is_hung = not self._changed.wait_for(lambda: not self._queue, seconds)
        self._warn_of_missing()
        self.flush()  # For an error of the last values.

    def warn_once(self, warning: str) -> None:
        """Logs a warning, unless it has been logged before."""
        if warning not in self._warned_of:
            self._warned_of.add(warning)
            logger.warning("%s Training continues.", warning)

    def _warn_of_missing(self) -> None:
        """Logs how many values the tracker does not have, if twice as many as last time or more."""
        name = self.tracker.name
        with self._changed:
            counters, failed = self._queue.counters, self._failed
        reasons = []
        if counters.dropped:
            reasons.append(f"{counters.dropped:,} were dropped because too many waited")
        if failed:
            reasons.append(f"{failed:,} met an error of {name}")
        if self._is_hung:
            reasons.append(
                f"{counters.pending:,} wait, because {name} does not answer, and are sent if it "
                "answers before the process ends"
            )
        missing = counters.dropped + failed + (counters.pending if self._is_hung else 0)
        # Not for each evaluation of a long series.
        if missing >= max(1, 2 * self._known_missing):
            self._known_missing = missing
            logger.warning(
                "%s values are missing in %s: %s. The event file has all of them.",
                f"{missing:,}",
                name,
                "; ".join(reasons),
            )

    # ---- The thread ----

    def _send_waiting(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due, GATHER_SECONDS)
                self._is_due = False
                if not self._queue:
                    self._thread = None
                    return
                end = self._queue.put_count
            while self._send_batch(end):
                pass

    def _send_batch(self, end: int) -> bool:
        """Sends the oldest values, and returns whether any with a number below `end` waited."""
        with self._changed:
            if not self._queue.waits_before(end):
                return False
            values = self._queue.take(BATCH_BYTES)
        try:
            for row in rows_of(values):
                self._send(row)
        finally:
            with self._changed:
                self._queue.confirm(len(values))
                self._changed.notify_all()
        return True

    def _send(self, row: RowOfRun) -> None:
        try:
            self.tracker.send(row.run, row.step, row.values)
            self._is_hung = False
        except Exception as error:
            self._failed += len(row.values)
            try:
                self._isolation.report(f"mirror values to {self.tracker.name}", error)
            except Exception as raised:
                self._raised = raised

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy: without thread, lock and waiting values."""
        return {name: vars(self)[name] for name in ("tracker", "_isolation", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()
