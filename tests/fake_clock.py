"""A clock of a test's own, on which time passes only when the test says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


class FakeClock:
    """Takes the place of `time.perf_counter` while `installed` is open."""

    def __init__(self) -> None:
        self._now = 1000.0

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += seconds

    @contextmanager
    def installed(self) -> Iterator["FakeClock"]:
        """Replaces `time.perf_counter` while open."""
        with mock.patch("time.perf_counter", lambda: self._now):
            yield self
