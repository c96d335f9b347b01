"""A queue with a limit in bytes, for what waits to be written. It drops scalars last."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Counters:
    """How many records of a run were written, wait, or were dropped because the queue was full."""

    written: int = 0
    pending: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    """An item in the queue. `number` is its position among all items that were put, from 0."""

    number: int
    item: Item
    is_scalar: bool
    size: int


class BoundedQueue(Generic[Item]):
    """Holds items in order until they are written, and drops some when it is full.

    The time of each operation does not depend on how many items wait. The queue is not thread-safe:
    the caller must hold a lock.

    Args:
        limit_bytes: The most bytes of waiting items. A single item may be larger if no other waits.
        size_of: Returns the bytes of memory that an item takes.
    """

    def __init__(self, limit_bytes: int, size_of: Callable[[Item], int]) -> None:
        self._limit = limit_bytes
        self._size_of = size_of
        self._scalars: deque[_Waiting[Item]] = deque()
        self._others: deque[_Waiting[Item]] = deque()
        self._in_flight: list[_Waiting[Item]] = []
        self._bytes = 0
        # How many items were put so far. This is also the number of the next item.
        self.put_count = 0
        self._written = self._dropped = 0

    def __len__(self) -> int:
        return len(self._scalars) + len(self._others) + len(self._in_flight)

    @property
    def counters(self) -> Counters:
        """How many items were written, wait, or were dropped so far."""
        return Counters(self._written, len(self), self._dropped)

    @property
    def has_dropped(self) -> bool:
        """Whether any item was dropped so far."""
        return self._dropped > 0

    def is_oversized(self, item: Item) -> bool:
        """Whether an item is larger than the whole queue."""
        return self._size_of(item) > self._limit

    def waits_before(self, number: int) -> bool:
        """Whether an item with a smaller number than `number` still waits."""
        oldest = self._in_flight or self._oldest()
        return oldest is not None and oldest[0].number < number

    def has_room(self, item: Item) -> bool:
        """Whether an item can be put without dropping another."""
        return not self or self._bytes + self._size_of(item) <= self._limit

    def put(self, item: Item, is_scalar: bool) -> None:
        """Adds an item. If the queue is full, the oldest items are dropped, scalars last."""
        waiting = _Waiting(self.put_count, item, is_scalar, self._size_of(item))
        self.put_count += 1
        if waiting.size > self._limit and self:
            self._dropped += 1  # To keep this item, all others would have to be dropped.
            return
        (self._scalars if is_scalar else self._others).append(waiting)
        self._bytes += waiting.size
        self._make_room()

    def take(self, most_bytes: int) -> list[Item]:
        """Returns the oldest items, at least one if any waits.

        They count as waiting until `confirm` is called.

        Args:
            most_bytes: No further item is taken once the taken ones have this size.
        """
        size = 0
        while (oldest := self._oldest()) and (not self._in_flight or size < most_bytes):
            self._in_flight.append(oldest.popleft())
            size += self._in_flight[-1].size
        return [waiting.item for waiting in self._in_flight]

    def confirm(self, written: int) -> None:
        """Counts the first `written` of the taken items as written. The others wait again."""
        self._bytes -= sum(waiting.size for waiting in self._in_flight[:written])
        self._written += written
        for waiting in reversed(self._in_flight[written:]):
            (self._scalars if waiting.is_scalar else self._others).appendleft(waiting)
        self._in_flight = []
        self._make_room()

    def drop_all(self) -> None:
        """Drops all waiting items, and counts them as dropped."""
        self._dropped += len(self)
        self._scalars.clear()
        self._others.clear()
        self._in_flight = []
        self._bytes = 0

    def _oldest(self) -> deque[_Waiting[Item]] | None:
        """Returns the deque whose first item is the oldest; `None` if both are empty."""
        if not self._scalars or not self._others:
            return self._scalars or self._others or None
        return min(self._scalars, self._others, key=lambda items: items[0].number)

    def _make_room(self) -> None:
        # Items that are being written cannot be dropped, so the queue may exceed its limit.
        while self._bytes > self._limit and len(self) > 1 and (self._others or self._scalars):
            self._bytes -= (self._others or self._scalars).popleft().size
            self._dropped += 1
