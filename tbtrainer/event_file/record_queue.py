"""The queue of records that wait for the disk. It has a limit in bytes, and drops scalars last."""

from collections import deque
from dataclasses import dataclass

# The memory that Python needs for a record in addition to its bytes. A scalar has about 50 bytes,
# so if this were not counted, the queue would need four times its limit.
RECORD_OVERHEAD_BYTES = 150


@dataclass(frozen=True)
class Counters:
    """How many records of a run were written, wait, or were dropped because the queue was full."""

    written: int = 0
    pending: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Waiting:
    """A record in the queue. `number` is its position among all records that were put, from 0."""

    number: int
    record: bytes
    is_scalar: bool

    @property
    def size(self) -> int:
        return len(self.record) + RECORD_OVERHEAD_BYTES


class RecordQueue:
    """Holds records in order until they are written, and drops some when it is full.

    The time of each operation does not depend on how many records wait. The queue is not
    thread-safe: the caller must hold a lock.

    Args:
        limit_bytes: The most bytes of waiting records, including `RECORD_OVERHEAD_BYTES` for each.
            A single record may be larger if no other record waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._scalars: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._in_flight: list[_Waiting] = []
        self._bytes = 0
        # How many records were put so far. This is also the number of the next record.
        self.put_count = 0
        self._written = self._dropped = 0

    def __len__(self) -> int:
        return len(self._scalars) + len(self._others) + len(self._in_flight)

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped so far."""
        return Counters(self._written, len(self), self._dropped)

    @property
    def has_dropped(self) -> bool:
        """Whether any record was dropped so far."""
        return self._dropped > 0

    def is_oversized(self, record: bytes) -> bool:
        """Whether a record is larger than the whole queue."""
        return len(record) + RECORD_OVERHEAD_BYTES > self._limit

    def waits_before(self, number: int) -> bool:
        """Whether a record with a smaller number than `number` still waits."""
        oldest = self._in_flight or self._oldest()
        return oldest is not None and oldest[0].number < number

    def has_room(self, record: bytes) -> bool:
        """Whether a record can be put without dropping another."""
        return not self or self._bytes + len(record) + RECORD_OVERHEAD_BYTES <= self._limit

    def put(self, record: bytes, is_scalar: bool) -> None:
        """Adds a record. If the queue is full, the oldest records are dropped, scalars last."""
        waiting = _Waiting(self.put_count, record, is_scalar)
        self.put_count += 1
        if waiting.size > self._limit and self:
            self._dropped += 1  # To keep this record, all others would have to be dropped.
            return
        (self._scalars if is_scalar else self._others).append(waiting)
        self._bytes += waiting.size
        self._make_room()

    def take(self, most_bytes: int) -> list[bytes]:
        """Returns the oldest records, at least one if any waits.

        They count as waiting until `confirm` is called.

        Args:
            most_bytes: No further record is taken once the taken ones have this size.
        """
        size = 0
        while (oldest := self._oldest()) and (not self._in_flight or size < most_bytes):
            self._in_flight.append(oldest.popleft())
            size += self._in_flight[-1].size
        return [waiting.record for waiting in self._in_flight]

    def confirm(self, written: int) -> None:
        """Counts the first `written` of the taken records as written. The others wait again."""
        self._bytes -= sum(waiting.size for waiting in self._in_flight[:written])
        self._written += written
        for waiting in reversed(self._in_flight[written:]):
            (self._scalars if waiting.is_scalar else self._others).appendleft(waiting)
        self._in_flight = []
        self._make_room()

    def drop_all(self) -> None:
        """Drops all waiting records, and counts them as dropped."""
        self._dropped += len(self)
        self._scalars.clear()
        self._others.clear()
        self._in_flight = []
        self._bytes = 0

    def _oldest(self) -> deque[_Waiting] | None:
        """Returns the deque whose first record is the oldest; `None` if both are empty."""
        if not self._scalars or not self._others:
            return self._scalars or self._others or None
        return min(self._scalars, self._others, key=lambda records: records[0].number)

    def _make_room(self) -> None:
        # Records that are being written cannot be dropped, so the queue may exceed its limit.
        while self._bytes > self._limit and len(self) > 1 and (self._others or self._scalars):
            self._bytes -= (self._others or self._scalars).popleft().size
            self._dropped += 1
