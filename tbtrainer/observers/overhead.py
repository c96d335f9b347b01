"""What the telemetry itself costs, measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Overhead:
    """Seconds spent inside the telemetry, as a share of the wall time since the last logging step.

    It counts the time the training loop was held up on this rank's host. Work on an accelerator
    that the host does not wait for, and the thread that writes, are not in it.
    """

    def __init__(self) -> None:
        self._depth = 0
        self.restart()

    def restart(self) -> None:
        """Begins a new window. Of a block that is being measured, only the rest lies in it."""
        self._began = self._block_began = time.perf_counter()
        self._spent = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds the time of a block. A block inside another is counted once."""
        if self._depth == 0:
            self._block_began = time.perf_counter()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._spent += time.perf_counter() - self._block_began

    def fraction(self) -> float:
        """Returns the share of the window, from 0 to 1, and begins a new one."""
        now = time.perf_counter()
        spent, elapsed = self._spent, now - self._began
        if self._depth > 0:
            spent += now - self._block_began
        self.restart()
        return min(spent / elapsed, 1.0) if elapsed > 0 else 0.0
