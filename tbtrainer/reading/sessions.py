"""Sessions of a run, and which of their values later sessions have replaced."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

NO_STEP = np.iinfo(np.int64).max
# tbtrainer's own names have a hyphen before the last number; see `event_file_name`.
_OWN_NAME = re.compile(r"events\.out\.tfevents\.\d+\.(.+\.\d+)-\d+")

# Of a session: the step of the first value of each tag, int64, shape (tags,), `NO_STEP` for tags
# without one; and when its first value was written.
_ByTag: TypeAlias = tuple[NDArray[np.int64], float]


@dataclass(frozen=True)
class Session:
    """What one writer wrote into a run: a training, or the part of one until it was resumed.

    Attributes:
        index: Its number, from 0 in the order read.
        files: Names of its event files.
        start_step: Step of its START record: values of earlier sessions from this step on are
            replaced. `None` for a session without one.
        first_step: Smallest step of its values; `None` if it has none.
        last_step: Largest step of its values; `None` if it has none.
        first_wall_time: When its first record was written, in seconds since 1970.
        last_wall_time: When its last value was written.
        values: How many values it wrote, those that were replaced included.
    """

    index: int
    files: tuple[str, ...]
    start_step: int | None
    first_step: int | None
    last_step: int | None
    first_wall_time: float
    last_wall_time: float
    values: int


@dataclass
class Segment:
    """The values of a file up to its first START record, or from one to the next.

    Attributes:
        file: Number of the file.
        start_step: Step of the START record; `None` for the values before the first one.
        begins: When its first record was written, in seconds since 1970.
        first_value: When its first value was written; infinity without one.
        values: Number of values.
        first_step: Smallest step; `NO_STEP` without values.
        last_step: Largest step.
        ends: When the last value was written, in seconds since 1970.
        first_steps: Step of the first value of each tag; `NO_STEP` for tags without one. int64,
            shape (tags,).
        last_steps: Largest step of each tag; -`NO_STEP` for tags without one. As above.
        has_tags: Whether there is a value of each tag. bool, shape (tags,).
    """

    file: int
    start_step: int | None
    begins: float
    first_value: float = np.inf
    values: int = 0
    first_step: int = NO_STEP
    last_step: int = -NO_STEP
    ends: float = -np.inf
    first_steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    last_steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    has_tags: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def add(
        self, tag: NDArray[np.int32], step: NDArray[np.int64], wall_time: NDArray[np.float64]
    ) -> None:
        """Adds values, in the order written. Each array has the shape (values,)."""
        if not len(tag):
            return
        if not self.values:
            self.first_value = float(wall_time[0])
        tags = int(tag.max()) + 1
        first = _padded(self.first_steps, tags, NO_STEP)
        self.last_steps = _padded(self.last_steps, tags, -NO_STEP)
        self.has_tags = _padded(self.has_tags, tags, False)
        self.has_tags[tag] = True
        found = np.full(len(first), NO_STEP)
        # If an index occurs twice, NumPy keeps the last value: that of the first row.
        found[tag[::-1]] = step[::-1]
        self.first_steps = np.where(first == NO_STEP, found, first)
        np.maximum.at(self.last_steps, tag, step)
        self.values += len(tag)
        self.first_step = min(self.first_step, int(step.min()))
        self.last_step = max(self.last_step, int(step.max()))
        self.ends = max(self.ends, float(wall_time.max()))


@dataclass(frozen=True)
class Replaced:
    """Which values of a segment later sessions have replaced.

    Attributes:
        from_step: Values of this step and later ones are replaced; `None` if there is no such step.
        by_tag: Pairs for later sessions without a START record: the step of their first value per
            tag, and when their first value was written. Values of this step and later ones that
            were written before that are replaced.
    """

    from_step: int | None = None
    by_tag: tuple[_ByTag, ...] = ()

    def __bool__(self) -> bool:
        return self.from_step is not None or bool(self.by_tag)

    def mask(
        self, tag: NDArray[np.int32], step: NDArray[np.int64], wall_time: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Returns for each value whether it is replaced. bool, shape (values,)."""
        found = np.zeros(len(step), dtype=bool)
        if self.from_step is not None:
            found |= step >= self.from_step
        for first_steps, begins in self.by_tag:
            known = tag < len(first_steps)
            first = np.where(known, first_steps[np.where(known, tag, 0)], NO_STEP)
            found |= (step >= first) & (first != NO_STEP) & (wall_time <= begins)
        return found


def _padded(array: NDArray[Any], size: int, value: int) -> NDArray[Any]:
    """Returns an array with at least `size` elements: some of a value are added at its end."""
    missing = max(0, size - len(array))
    return np.concatenate([array, np.full(missing, value, array.dtype)])


def session_numbers(
    segments: Sequence[Segment], names: Sequence[str], removed_from: Sequence[str | None]
) -> list[int]:
    """Returns the number of the session of each segment.

    A session begins with a START record, and with each file. Two kinds of files continue one: those
    that tbtrainer begins without a START record in a process that has written a file before, and
    those with what a rewind took out. The empty segment before a START record has the number of
    the session before.

    Args:
        segments: All segments, in the order read.
        names: Of the files.
        removed_from: Of the files; see `EventFile`.
    """
    numbers: list[int] = []
    of_process: dict[str, int] = {}
    of_file: dict[str, int] = {}
    latest = -1
    for segment in segments:
        name, original = names[segment.file], removed_from[segment.file]
        own = _OWN_NAME.match(name)
        process = own[1] if own else ""
        if original is not None and original in of_file:
            number = of_file[original]
        elif segment.start_step is None and not segment.values:
            number = max(latest, 0)
        elif segment.start_step is None and process in of_process:
            number = of_process[process]
        else:
            latest = number = latest + 1
        if segment.start_step is not None or segment.values:
            of_file[name] = number
            if process:
                of_process[process] = number
        numbers.append(number)
    return numbers


def replaced(segments: Sequence[Segment], numbers: Sequence[int]) -> list[Replaced]:
    """Returns which values of each segment later sessions have replaced.

    A START record replaces all values that were read before and have its step or a later one, as
    in TensorBoard. TensorBoard ignores the first START record of a run; here, one of step 0 is
    ignored, and one of another step says that the values before it are to be replaced.

    A session without a START record, as of a stock `Trainer` that resumed in the same directory,
    replaces by tag: those values of a tag that were written before it began and have the step of
    its own first value of that tag, or a later one.

    Args:
        segments: All segments, in the order read.
        numbers: The session of each segment.
    """
    starts = _effective_starts(segments)
    begins = {number: place for place, number in reversed(list(enumerate(numbers)))}
    without_start = _without_start(
        segments, numbers, {n for n in begins if starts[begins[n]] is None}
    )
    from_step: int | None = None
    later: list[_ByTag] = []
    found: list[Replaced] = []
    for place in reversed(range(len(segments))):
        by_tag = tuple(one for one in later if _overlap(segments[place], one[0]))
        found.append(Replaced(from_step, by_tag))
        start, number = starts[place], numbers[place]
        if start is not None:
            from_step = start if from_step is None else min(start, from_step)
        elif begins[number] == place:
            later.append(without_start[number])
    return found[::-1]


def _without_start(
    segments: Sequence[Segment], numbers: Sequence[int], chosen: set[int]
) -> dict[int, _ByTag]:
    """Returns for some sessions the step of the first value of each tag, and when they began."""
    found: dict[int, _ByTag] = {}
    for segment, number in zip(segments, numbers, strict=True):
        if number not in chosen:
            continue
        first_steps, first_value = found.get(number, (np.zeros(0, np.int64), np.inf))
        size = max(len(first_steps), len(segment.first_steps))
        before = _padded(first_steps, size, NO_STEP)
        own = _padded(segment.first_steps, size, NO_STEP)
        merged = np.where(before == NO_STEP, own, before)
        found[number] = merged, min(first_value, segment.first_value)
    return found


def _effective_starts(segments: Sequence[Segment]) -> list[int | None]:
    """Returns the step from which on each segment replaces earlier ones by its START record."""
    found: list[int | None] = []
    has_start = False
    for segment in segments:
        is_effective = segment.start_step is not None and (has_start or segment.start_step > 0)
        found.append(segment.start_step if is_effective else None)
        has_start = has_start or segment.start_step is not None
    return found


def _overlap(segment: Segment, first_steps: NDArray[np.int64]) -> bool:
    """Whether the first step of a tag in a later session is not beyond the segment's last one."""
    tags = min(len(segment.last_steps), len(first_steps))
    return bool(np.any(segment.last_steps[:tags] >= first_steps[:tags]))


def sessions_of(
    segments: Sequence[Segment], numbers: Sequence[int], names: Sequence[str]
) -> list[Session]:
    """Returns the sessions of a run, in the order read."""
    found = []
    for index in sorted(set(numbers)):
        own = [
            segment
            for segment, number in zip(segments, numbers, strict=True)
            if number == index and (segment.values or segment.start_step is not None)
        ]
        if not own:
            continue
        values = sum(segment.values for segment in own)
        starts = [segment.start_step for segment in own if segment.start_step is not None]
        found.append(
            Session(
                index=index,
                files=tuple(dict.fromkeys(names[segment.file] for segment in own)),
                start_step=starts[0] if starts else None,
                first_step=min(s.first_step for s in own) if values else None,
                last_step=max(s.last_step for s in own) if values else None,
                first_wall_time=min(segment.begins for segment in own),
                last_wall_time=max(max(s.ends, s.begins) for s in own),
                values=values,
            )
        )
    return found
