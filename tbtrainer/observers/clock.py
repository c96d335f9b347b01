"""How long the observers hold the training up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent inside the telemetry, as a share of the wall time since the last logging step.

    It counts the time the training loop was held up on this rank's host. Work on an accelerator
    that the host does not wait for, and the thread that writes, are not in it.
    """

    def __init__(self) -> None:
        self._depth = 0
        self.restart()

    def restart(self) -> None:
        """Begins a new window."""
        self._began = time.perf_counter()
        self._spent = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds the time of a block. A block inside another is counted once."""
        self._depth += 1
        began = time.perf_counter()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._spent += time.perf_counter() - began

    def fraction(self) -> float:
        """Returns the share of the window, from 0 to 1, and begins a new one."""
        spent, elapsed = self._spent, time.perf_counter() - self._began
        self.restart()
        return min(spent / elapsed, 1.0) if elapsed > 0 else 0.0
