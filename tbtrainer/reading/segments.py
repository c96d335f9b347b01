"""Segments of event files: their values up to a START event, or from one to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading import wire
from tbtrainer.reading.batch import Batch


@dataclass(frozen=True)
class Part:
    """The values of a segment that are in one batch.

    Attributes:
        start: Row of the START event with which the segment begins; `None` if it began before.
        rows: The rows of the values, without the START event.
    """

    start: int | None
    rows: slice


def parts_of(batch: Batch) -> Iterator[Part]:
    """Yields the parts of a batch that START events divide. The first one may have no rows."""
    starts = np.flatnonzero(batch.field == wire.START).tolist()
    ends = [*starts, len(batch)]
    yield Part(None, slice(0, ends[0]))
    for row, end in zip(starts, ends[1:], strict=True):
        yield Part(row, slice(row + 1, end))


@dataclass(frozen=True)
class TagSteps:
    """Steps of the values in a part of a batch, by tag. Each array has the shape (tags met,).

    Attributes:
        tag: Index into the tags of the batch. int64.
        first: Step of the first value. int64.
        last: Step of the last value. int64.
        largest: Largest step. int64.
    """

    tag: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    largest: NDArray[np.int64]


def tag_steps(tag: NDArray[np.int32], step: NDArray[np.int64], tags: int) -> TagSteps:
    """Returns the steps of some values by tag.

    Args:
        tag: Indices into the tags of a batch, at least one. Shape (values,).
        step: Shape (values,).
        tags: How many tags the batch has.
    """
    met: NDArray[np.int64] = np.arange(tags)
    local: NDArray[Any] = tag
    if len(tag) < tags:
        # Otherwise many START events among many tags would take time for each pair of them.
        met, local = np.unique(tag, return_inverse=True)
    # If an index occurs twice, NumPy keeps the value that comes last.
    first, last = np.full(len(met), -1), np.full(len(met), -1)
    places = np.arange(len(tag))
    first[local[::-1]] = places[::-1]
    last[local] = places
    largest = np.full(len(met), np.iinfo(np.int64).min)
    np.maximum.at(largest, local, step)
    found = np.flatnonzero(first >= 0)
    return TagSteps(met[found], step[first[found]], step[last[found]], largest[found])


@dataclass
class Segment:
    """The values of a file up to its first START event, or from one to the next.

    Attributes:
        file: Number of the file.
        start_step: Step of the START event; `None` for the values before the first one.
        begins: When its first event was written, in seconds since 1970.
        first_value: When its first value was written; infinity without one.
        ends: When its last value was written; minus infinity without one.
        values: Number of values.
        first_steps: Step of the first value of each tag, by number of the tag.
        largest_steps: Largest step of each tag, by number of the tag.
        smallest_step: Of all values; `None` without one.
    """

    file: int
    start_step: int | None
    begins: float
    first_value: float = np.inf
    ends: float = -np.inf
    values: int = 0
    first_steps: dict[int, int] = field(default_factory=dict)
    largest_steps: dict[int, int] = field(default_factory=dict)
    smallest_step: int | None = None

    @property
    def largest_step(self) -> int | None:
        """Largest step of all values; `None` without one."""
        return max(self.largest_steps.values(), default=None)

    def add(self, batch: Batch, rows: slice, steps: TagSteps, numbers: NDArray[np.int32]) -> None:
        """Adds values.

        Args:
            batch: The batch that they are in.
            rows: Their rows; at least one.
            steps: Their steps by tag.
            numbers: The number of each tag of the batch.
        """
        wall_time = batch.wall_time[rows]
        if not self.values:
            self.first_value = float(wall_time[0])
        self.values += len(wall_time)
        self.ends = max(self.ends, float(wall_time.max()))
        smallest = int(batch.step[rows].min())
        known = self.smallest_step
        self.smallest_step = smallest if known is None else min(known, smallest)
        columns = numbers[steps.tag].tolist(), steps.first.tolist(), steps.largest.tolist()
        for number, first, largest in zip(*columns, strict=True):
            self.first_steps.setdefault(number, first)
            self.largest_steps[number] = max(largest, self.largest_steps.get(number, largest))
