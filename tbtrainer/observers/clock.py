"""How long the observers hold the training up."""

import time
from typing import Any


class Clock:
    """Measures the time that the training loop spends in tbtrainer, on this rank's host.

    Work on an accelerator that the host does not wait for, and threads beside the training, are not
    in it.
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
        """Returns the time spent so far, that of a block which is not yet over included."""
        current = time.perf_counter() - self._block_began if self._depth > 0 else 0.0
        return self._spent + current

    def training_seconds(self) -> float:
        """Returns the time of a clock that stands still while tbtrainer works."""
        return time.perf_counter() - self.spent_seconds()

    def restart(self) -> None:
        """Begins a window at this moment, even in the middle of a block."""
        self._window_began = time.perf_counter()
        self._spent_before = self.spent_seconds()

    def fraction(self) -> float:
        """Returns the share of the window that was spent, from 0 to 1, and begins a new one."""
        elapsed = time.perf_counter() - self._window_began
        spent = self.spent_seconds() - self._spent_before
        self.restart()
        return min(spent / elapsed, 1.0) if elapsed > 0 else 0.0
