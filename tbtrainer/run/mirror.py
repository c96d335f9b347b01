"""Copies scalars and histograms to the run of another tracker, in a thread of its own."""

import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tbtrainer.event_file.writer import this_process
from tbtrainer.isolation import Isolation
from tbtrainer.records import Histogram
from tbtrainer.run.tracker import Tracker

logger = logging.getLogger(__name__)

# The most values that wait for a tracker. A histogram of 64 buckets takes about a kilobyte.
MOST_WAITING = 10_000
# The most values of one row: wandb refuses rows of more than 10 MB.
MOST_IN_ROW = 500
# How long values are collected: those of one step then make one row.
GATHER_SECONDS = 0.2


@dataclass(frozen=True)
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


def rows_of(values: Iterable[Value]) -> list[RowOfRun]:
    """Returns values as rows, in the order in which the rows begin.

    A tag that comes twice at one step, as after two evaluations, is in two rows.
    """
    rows: list[RowOfRun] = []
    latest: dict[tuple[int, int], RowOfRun] = {}
    for value in values:
        key = id(value.run), value.step
        row = latest.get(key)
        if row is None or value.tag in row.values or len(row.values) >= MOST_IN_ROW:
            row = latest[key] = RowOfRun(value.run, value.step)
            rows.append(row)
        row.values[value.tag] = value.value
    return rows


class Mirror:
    """Sends values to one tracker, in a thread that ends when none is left.

    Only `close` waits for the tracker. If more than `MOST_WAITING` values wait, the oldest are
    dropped, with one warning; the event file has them. An error of the tracker goes to `isolation`,
    and later values are sent nevertheless. Copies of a mirror in other processes send nothing.

    Args:
        tracker: Where the values go.
        isolation: What happens to an error.
    """

    def __init__(self, tracker: Tracker, isolation: Isolation) -> None:
        self.tracker = tracker
        self._isolation = isolation
        self._process = this_process()
        self._changed = threading.Condition()
        self._waiting: deque[Value] = deque()
        self._thread: threading.Thread | None = None
        self._is_sending = False
        # Whether the waiting values are to be sent now.
        self._is_due = False
        # Whether `close` waited in vain, and no row has been sent since.
        self._is_hung = False
        # An error that `isolation` raised in the thread, for the next caller.
        self._raised: Exception | None = None
        self._warned_of: set[str] = set()

    def put(self, value: Value) -> None:
        """Adds a value. The thread sends it."""
        if self._process != this_process():
            return
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.warn_once(
                    f"{self.tracker.name} takes values more slowly than they are logged. Its "
                    "oldest waiting values are left out. The event file has all of them."
                )
            self._waiting.append(value)
            if self._thread is None:
                # A daemon, so that a tracker that hangs does not keep the process from ending.
                thread = threading.Thread(
                    target=self._send_waiting, name=f"tbtrainer-{self.tracker.name}", daemon=True
                )
                thread.start()
                self._thread = thread

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
        if self._process != this_process() or self._is_hung:
            return
        self.flush()
        with self._changed:
            self._is_hung = not self._changed.wait_for(self._is_idle, seconds)
        if self._is_hung:
            self.warn_once(
                f"The last values have not been sent to {self.tracker.name}, because it does not "
                "answer. They are sent if it answers before the process ends. The event file has "
                "all of them."
            )
        self.flush()  # For an error of the last values.

    def warn_once(self, warning: str) -> None:
        """Logs a warning, unless it has been logged before."""
        if warning not in self._warned_of:
            self._warned_of.add(warning)
            logger.warning("%s Training continues.", warning)

    def _is_idle(self) -> bool:
        return not self._waiting and not self._is_sending

    # ---- The thread ----

    def _send_waiting(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due, GATHER_SECONDS)
                self._is_due = False
                if not self._waiting:
                    self._thread = None
                    return
                values = list(self._waiting)
                self._waiting.clear()
                self._is_sending = True
            try:
                for row in rows_of(values):
                    self._send(row)
            finally:
                with self._changed:
                    self._is_sending = False
                    self._changed.notify_all()

    def _send(self, row: RowOfRun) -> None:
        try:
            self.tracker.send(row.run, row.step, row.values)
            self._is_hung = False
        except Exception as error:
            try:
                self._isolation.report(f"mirror values to {self.tracker.name}", error)
            except Exception as raised:
                self._raised = raised

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy, which sends nothing: it has no thread and no lock."""
        return {"_process": None}
