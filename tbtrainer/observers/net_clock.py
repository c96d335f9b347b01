"""A clock that does not count evaluations and checkpoints."""

import time
from dataclasses import dataclass

from tbtrainer.observers.clock import Clock


@dataclass(frozen=True)
class Elapsed:
    """Time on this rank's host, in seconds.

    Attributes:
        total: All of it.
        telemetry: What the training loop spent in tbtrainer, a part of `total`.
    """

    total: float
    telemetry: float

    def since(self, earlier: "Elapsed") -> "Elapsed":
        """Returns the time between two readings."""
        return Elapsed(self.total - earlier.total, self.telemetry - earlier.telemetry)


class NetClock:
    """Measures time, in total and in tbtrainer, and can be paused.

    Args:
        clock: Measures what the training loop spends in tbtrainer.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._skipped = Elapsed(0.0, 0.0)
        self._paused_at: Elapsed | None = None

    def pause(self) -> None:
        """Stops counting. Does nothing if it is paused."""
        if self._paused_at is None:
            self._paused_at = self._now()

    def resume(self) -> None:
        """Counts again. Does nothing if it is not paused."""
        if self._paused_at is not None:
            pause = self._now().since(self._paused_at)
            self._paused_at = None
            self._skipped = Elapsed(
                self._skipped.total + pause.total, self._skipped.telemetry + pause.telemetry
            )

    def read(self) -> Elapsed:
        """Returns the time without the pauses."""
        return (self._paused_at or self._now()).since(self._skipped)

    def _now(self) -> Elapsed:
        return Elapsed(time.perf_counter(), self._clock.spent_seconds())
