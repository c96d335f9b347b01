"""Makes and writes records in another thread, while the training continues."""

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from tbtrainer.isolation import Isolation
from tbtrainer.records import Records

# The most tasks that are not done. With one more, the training waits for the oldest. Otherwise a
# snapshot at every step of a fast training could fill the memory.
_BACKLOG = 4


class Background:
    """Makes records and writes them, one task after another.

    Args:
        write: Takes records and the step they are shown at.
        isolation: What happens to an error of a task.
    """

    def __init__(self, write: Callable[[Records, int], None], isolation: Isolation) -> None:
        self._write = write
        self._isolation = isolation
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def submit(self, make: Callable[[], Records], step: int, place: str) -> None:
        """Adds a task to the thread: it makes records and writes them.

        Args:
            make: Returns the records.
            step: The step they are shown at.
            place: What the task does, as a phrase that completes "tbtrainer could not …".
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="tbtrainer-records")
        # In the caller's context, where a library may keep its current run.
        run = contextvars.copy_context().run
        self._pending.append(self._thread.submit(run, self._run, make, step, place))
        while len(self._pending) > _BACKLOG:
            self._pending.popleft().result()

    def drain(self, seconds: float | None = None) -> None:
        """Waits until all tasks are done. With `telemetry_errors="raise"` it raises their error.

        Args:
            seconds: The longest wait; `None` for no limit. Unfinished tasks continue.
        """
        wait(self._pending, seconds)
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits until all tasks are done, and ends the thread. A later task starts it again."""
        try:
            self.drain()
        finally:
            thread, self._thread = self._thread, None
            if thread is not None:
                thread.shutdown()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no thread and no tasks: those are the original's."""
        return {**vars(self), "_thread": None, "_pending": deque()}

    def _run(self, make: Callable[[], Records], step: int, place: str) -> None:
        with self._isolation.guard(place):
            self._write(make(), step)
