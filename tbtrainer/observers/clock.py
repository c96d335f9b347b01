"""Measures how much time the training loop spends in tbtrainer."""

import time
from typing import Any


class Clock:
    """Measures the time that the training loop spends in tbtrainer, on this rank's host.

    This does not include work on an accelerator that the host does not wait for, nor other threads.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._block_began = 0.0
        self._spent = 0.0
        self.restart()

    def measured(self) -> "Clock":
        """Measures the block of a `with`. A block inside another is counted once."""
        return self

    # Not a generator, which would cost several times as much at each moment of a step.
    def __enter__(self) -> None:
        if self._depth == 0:
            self._block_began = time.perf_counter()
        self._depth += 1

    def __exit__(self, *exception: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._spent += time.perf_counter() - self._block_began

    def spent_seconds(self) -> float:
        """Returns the time spent so far, including that of a block that is still running."""
        current = time.perf_counter() - self._block_began if self._depth > 0 else 0.0
        return self._spent + current

    def training_seconds(self) -> float:
        """Returns the time of a clock that does not run while the training loop is in tbtrainer."""
        # In a block it stands where it stood when the block began.
        now = self._block_began if self._depth > 0 else time.perf_counter()
        return now - self._spent

    def restart(self) -> None:
        """Begins a new window now. Of a block that is running, only the rest belongs to it."""
        self._window_began = time.perf_counter()
        self._spent_before = self.spent_seconds()

    def fraction(self) -> float:
        """Returns the share of the window spent in tbtrainer, 0 to 1, and begins a new window."""
        elapsed = time.perf_counter() - self._window_began
        spent = self.spent_seconds() - self._spent_before
        self.restart()
        return min(spent / elapsed, 1.0) if elapsed > 0 else 0.0
