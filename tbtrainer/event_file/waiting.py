"""How long a caller waits for the disk. Every time limit of the event files is defined here."""

import time

# A log call waits this long for what it logged to be handed to the operating system.
LOG_SECONDS = 0.05
# A checkpoint waits this long.
CHECKPOINT_SECONDS = 0.8
# The end of a run waits this long for a disk that is slow but answers.
CLOSE_SECONDS = 10.0
# The handler of SIGTERM waits this long: schedulers send SIGKILL some seconds later.
SIGTERM_SECONDS = 2.0
# A call on a local disk that takes longer counts as hung, and is not waited for. So a hung disk
# delays a training by less than two seconds.
HUNG_SECONDS = 0.8
# To put a part of some megabytes into an object store takes longer.
REMOTE_HUNG_SECONDS = 10.0
# A call that takes longer is reported in a warning.
SILENT_SECONDS = 5.0
# Between two warnings about faults of one run directory, after the first begin and the first end.
WARNING_SECONDS = 600.0
# A log call does not wait for a disk whose last writes, this many in a row, took longer than this.
_SLOW_SECONDS, _SLOW_WRITES = 0.01, 3


class WaitingPolicy:
    """Decides how long callers wait, by how quickly the last calls of the disk returned.

    Not safe for several threads: the caller holds a lock.

    Args:
        hung_after_seconds: A call that takes longer counts as hung.
        seconds_between_appends: How long records are collected between two appends.
    """

    def __init__(self, hung_after_seconds: float, seconds_between_appends: float) -> None:
        self._hung_after_seconds = hung_after_seconds
        self._seconds_between_appends = seconds_between_appends
        # When the call that lasts now began, as `time.monotonic`.
        self.busy_since: float | None = None
        self._next_append = 0.0
        self._slow_writes = 0
        # A caller waited in vain, and nothing has been written since.
        self._wait_timed_out = False

    @property
    def is_hung(self) -> bool:
        """Whether the call that lasts now has lasted too long."""
        return self.busy_since is not None and self.seconds_until_hung() <= 0

    def seconds_until_hung(self) -> float:
        """Seconds until the call that lasts now counts as hung; infinite if there is none."""
        if self.busy_since is None:
            return float("inf")
        return self.busy_since + self._hung_after_seconds - time.monotonic()

    def seconds_until_append(self) -> float:
        """Seconds until the next append is due."""
        return max(0.0, self._next_append - time.monotonic())

    def log_seconds(self) -> float:
        """Seconds that a log call may wait."""
        is_slow = self._wait_timed_out or self._slow_writes >= _SLOW_WRITES
        return 0.0 if is_slow or self._seconds_between_appends else LOG_SECONDS

    def room_seconds(self) -> float:
        """Seconds that a caller may wait for room for a record larger than the whole queue."""
        return CHECKPOINT_SECONDS if self.log_seconds() else 0.0

    def note_timeout(self) -> None:
        """Records that a caller waited as long as it may: log calls stop waiting."""
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
