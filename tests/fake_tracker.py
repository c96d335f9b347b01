"""A tracker without a package, for tests of what a mirror does with any tracker."""

import threading
from typing import Any

from tbtrainer.run.tracker import Row


class FakeTracker:
    """Keeps the rows it is sent. Its run can be ended, and it can block and fail.

    Attributes:
        run: What `current_run` returns.
        rows: Run, step and values of each row, in the order sent.
        follows: What `follows_event_files` returns.
        error: What `send` raises, once.
        answers: `send` waits for it.
        asked: Set when `send` begins.
        took: Released with each row that `send` has taken.
    """

    name = "fake"
    how_to_begin = "fake.init()"

    def __init__(self) -> None:
        self.run: Any = "run"
        self.rows: list[tuple[Any, int, dict[str, Any]]] = []
        self.follows = False
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()
        self.took = threading.Semaphore(0)

    def current_run(self) -> Any | None:
        return self.run

    def follows_event_files(self) -> bool:
        return self.follows

    def send(self, run: Any, step: int, row: Row) -> None:
        self.asked.set()
        self.answers.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.rows.append((run, step, dict(row)))
        self.took.release()

    def __deepcopy__(self, memo: Any) -> "FakeTracker":
        """Itself: what a copy of a trainer sends is found in one place."""
        return self

    @property
    def sent(self) -> list[tuple[int, str, Any]]:
        """Step, tag and value of everything it was sent, in that order."""
        return [(step, tag, value) for _, step, row in self.rows for tag, value in row.items()]
