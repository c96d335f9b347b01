"""Decides how long a caller waits for the disk. Defines all time limits of event files."""

import time

# The longest wait of a log call, until its records are handed to the operating system.
LOG_SECONDS = 0.05
# The longest wait of a checkpoint.
CHECKPOINT_SECONDS = 0.8
# The longest wait at the end of a run, for a disk that is slow but answers.
CLOSE_SECONDS = 10.0
# The longest wait of the handler of SIGTERM. Schedulers send SIGKILL some seconds later.
SIGTERM_SECONDS = 2.0
# A call of a local disk that takes longer counts as hung, and callers stop waiting for it. So a
# disk that hangs delays a training by less than two seconds in total.
HUNG_SECONDS = 0.8
# The same limit for an object store, where putting a part of some megabytes takes longer.
REMOTE_HUNG_SECONDS = 10.0
# After this time a call that has not returned is reported in a warning.
SILENT_SECONDS = 5.0
# Time between two warnings about faults of one run directory. The beginning and the end of the
# first fault are logged at once.
WARNING_SECONDS = 600.0
# If this many writes in a row took longer than `_SLOW_SECONDS`, log calls do not wait.
_SLOW_SECONDS, _SLOW_WRITES = 0.01, 3


class WaitingPolicy:
    """Decides how long callers wait, from the duration of the last calls of the disk.

    It is not thread-safe: the caller must hold a lock.

    Args:
        hung_after_seconds: A call that takes longer counts as hung.
        seconds_between_appends: How long records are collected between two appends.
    """

    def __init__(self, hung_after_seconds: float, seconds_between_appends: float) -> None:
        self._hung_after_seconds = hung_after_seconds
        self._seconds_between_appends = seconds_between_appends
        # When the running call of the disk began, by `time.monotonic`; `None` if none is running.
        self.busy_since: float | None = None
        self._next_append = 0.0
        self._slow_writes = 0
        # Whether a caller reached its limit, and no write has succeeded since.
        self._wait_timed_out = False

    @property
    def is_hung(self) -> bool:
        """Whether the running call of the disk counts as hung."""
        return self.busy_since is not None and self.seconds_until_hung() <= 0

    def seconds_until_hung(self) -> float:
        """Returns the seconds until the running call counts as hung; infinity if there is none."""
        if self.busy_since is None:
            return float("inf")
        return self.busy_since + self._hung_after_seconds - time.monotonic()

    def seconds_until_append(self) -> float:
        """Returns the seconds until the next append is due."""
        return max(0.0, self._next_append - time.monotonic())

    def log_seconds(self) -> float:
        """Returns how long a log call may wait, in seconds."""
        is_slow = self._wait_timed_out or self._slow_writes >= _SLOW_WRITES
        return 0.0 if is_slow or self._seconds_between_appends else LOG_SECONDS

    def room_seconds(self) -> float:
        """Returns how long a caller may wait to add a record larger than the queue, in seconds."""
        return CHECKPOINT_SECONDS if self.log_seconds() else 0.0

    def note_timeout(self) -> None:
        """Records that a caller reached its limit. Log calls do not wait until a write succeeds."""
        self._wait_timed_out = True

    def begin_call(self) -> None:
        """Records that a call of the disk begins."""
        self.busy_since = time.monotonic()

    def end_call(self) -> None:
        """Records that the call returned."""
        self.busy_since = None

    def end_append(self, succeeded: bool) -> None:
        """Records that an append returned."""
        now = time.monotonic()
        if succeeded:
            slow = now - (self.busy_since or now) > _SLOW_SECONDS
            self._slow_writes = self._slow_writes + 1 if slow else 0
            self._next_append = now + self._seconds_between_appends
            self._wait_timed_out = False
        self.end_call()
