"""Records on their way to the disk: in order, bounded in bytes, scalars the last to be dropped."""

from collections import deque
from dataclasses import dataclass

# What Python keeps for a record besides its bytes. A scalar is about 50 bytes long, so a bound that
# forgot this would be passed four times over.
RECORD_OVERHEAD_BYTES = 150


@dataclass(frozen=True)
class Counters:
    """What became of the records of a run: written, waiting, or dropped for want of room."""

    written: int = 0
    pending: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Waiting:
    """A record in the queue; `number` is its place in the order of all."""

    number: int
    record: bytes
    is_scalar: bool

    @property
    def size(self) -> int:
        return len(self.record) + RECORD_OVERHEAD_BYTES


class RecordQueue:
    """Takes records, hands them out in order, and takes back what could not be written.

    Every operation takes constant time however much waits. Not safe for several threads: the caller
    has a lock.

    Args:
        limit_bytes: The most that waits, what Python needs for it included. One record alone may be
            larger: it then waits alone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._scalars: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._in_flight: list[_Waiting] = []
        self._bytes = self._taken = 0
        self._written = self._dropped = 0

    def __len__(self) -> int:
        return len(self._scalars) + len(self._others) + len(self._in_flight)

    @property
    def counters(self) -> Counters:
        """What became of the records so far."""
        return Counters(self._written, len(self), self._dropped)

    def has_room(self, record: bytes) -> bool:
        """Whether a record can be put without dropping another."""
        return not self or self._bytes + len(record) + RECORD_OVERHEAD_BYTES <= self._limit

    def put(self, record: bytes, is_scalar: bool) -> None:
        """Appends a record, and makes room for it: the oldest that is no scalar goes first."""
        waiting = _Waiting(self._taken, record, is_scalar)
        self._taken += 1
        if waiting.size > self._limit and self:
            self._dropped += 1  # Rather than everything else.
            return
        (self._scalars if is_scalar else self._others).append(waiting)
        self._bytes += waiting.size
        self._make_room()

    def take(self, most_bytes: int) -> list[bytes]:
        """Hands out the oldest records, at least one if there is one.

        They count as waiting until `settle` says what became of them.
        """
        size = 0
        while (oldest := self._oldest()) and (not self._in_flight or size < most_bytes):
            self._in_flight.append(oldest.popleft())
            size += self._in_flight[-1].size
        return [waiting.record for waiting in self._in_flight]

    def settle(self, written: int) -> None:
        """Says how many of the records handed out were written; the others wait again, in front."""
        self._bytes -= sum(waiting.size for waiting in self._in_flight[:written])
        self._written += written
        for waiting in reversed(self._in_flight[written:]):
            (self._scalars if waiting.is_scalar else self._others).appendleft(waiting)
        self._in_flight = []
        self._make_room()

    def drop_all(self) -> None:
        """Gives up what waits, and counts it."""
        self._dropped += len(self)
        self._scalars.clear()
        self._others.clear()
        self._in_flight = []
        self._bytes = 0

    def _oldest(self) -> deque[_Waiting] | None:
        """The deque that begins with the oldest record, `None` if both are empty."""
        if not self._scalars or not self._others:
            return self._scalars or self._others or None
        return min(self._scalars, self._others, key=lambda records: records[0].number)

    def _make_room(self) -> None:
        # What is being written cannot be dropped, so a queue may be over its limit for that long.
        while self._bytes > self._limit and len(self) > 1 and (self._others or self._scalars):
            self._bytes -= (self._others or self._scalars).popleft().size
            self._dropped += 1
