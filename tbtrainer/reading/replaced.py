"""Which values of a run later sessions have replaced."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading.segments import Segment

# In an array of steps: there is none.
_NO_STEP = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _LaterSession:
    """A session without a START event, as seen from earlier values.

    Attributes:
        first_steps: Step of its first value of each tag; `_NO_STEP` for tags that it does not have.
            int64, shape (tags of the run,).
        first_value: When its first value was written, in seconds since 1970.
    """

    first_steps: NDArray[np.int64]
    first_value: float


@dataclass(frozen=True)
class Replaced:
    """Which values of a segment later sessions have replaced.

    Attributes:
        from_step: Values of this step and later ones are replaced; `None` if there is no such step.
        by_tag: Later sessions without a START event. Each replaces those values of its tags that
            have the step of its first value, or a later one, and were written before it.
    """

    from_step: int | None = None
    by_tag: tuple[_LaterSession, ...] = ()

    def __bool__(self) -> bool:
        return self.from_step is not None or bool(self.by_tag)

    def mask(
        self, tag: NDArray[np.int32], step: NDArray[np.int64], wall_time: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Returns for each value whether it is replaced. All arrays have the shape (values,).

        Args:
            tag: Numbers of tags of the run, or -1. What is returned for -1 means nothing.
            step: The steps.
            wall_time: When each value was written, in seconds since 1970.
        """
        found = np.zeros(len(step), dtype=bool)
        if self.from_step is not None:
            found |= step >= self.from_step
        for later in self.by_tag:
            first = later.first_steps[tag]
            found |= (step >= first) & (first != _NO_STEP) & (wall_time <= later.first_value)
        return found


def replaced(segments: Sequence[Segment], numbers: Sequence[int], tags: int) -> list[Replaced]:
    """Returns which values of each segment later sessions have replaced.

    A START event replaces all values that were read before and have its step or a later one, as
    in TensorBoard. TensorBoard ignores the first START event of a run; here, one of step 0 is
    ignored, and one of another step says that the values before it are to be replaced.

    A session without a START event, as of a stock `Trainer` that resumed in the same directory,
    replaces by tag: those values of a tag that were written before it began and have the step of
    its own first value of that tag, or a later one.

    Args:
        segments: All segments, in the order read.
        numbers: The session of each segment.
        tags: How many tags the run has.
    """
    starts = _effective_starts(segments)
    begins = {number: place for place, number in reversed(list(enumerate(numbers)))}
    chosen = {number for number, place in begins.items() if starts[place] is None}
    sessions = _without_start(segments, numbers, chosen, tags)
    from_step: int | None = None
    later: list[_LaterSession] = []
    found: list[Replaced] = []
    for place in reversed(range(len(segments))):
        found.append(Replaced(from_step, _overlapping(segments[place], later)))
        start, number = starts[place], numbers[place]
        if start is not None:
            from_step = start if from_step is None else min(start, from_step)
        elif begins[number] == place and sessions[number].first_value < np.inf:
            later.append(sessions[number])
    return found[::-1]


def _effective_starts(segments: Sequence[Segment]) -> list[int | None]:
    """Returns the step from which on each segment replaces earlier ones by its START event."""
    found: list[int | None] = []
    has_start = False
    for segment in segments:
        is_effective = segment.start_step is not None and (has_start or segment.start_step > 0)
        found.append(segment.start_step if is_effective else None)
        has_start = has_start or segment.start_step is not None
    return found


def _without_start(
    segments: Sequence[Segment], numbers: Sequence[int], chosen: set[int], tags: int
) -> dict[int, _LaterSession]:
    """Returns some sessions as earlier values see them."""
    steps: dict[int, dict[int, int]] = {number: {} for number in chosen}
    first_values = dict.fromkeys(chosen, float("inf"))
    for segment, number in zip(segments, numbers, strict=True):
        if number in chosen:
            # An earlier segment of the session has the first value.
            steps[number] = {**segment.first_steps, **steps[number]}
            first_values[number] = min(first_values[number], segment.first_value)
    found = {}
    for number in chosen:
        first_steps = np.full(tags, _NO_STEP)
        first_steps[list(steps[number])] = list(steps[number].values())
        found[number] = _LaterSession(first_steps, first_values[number])
    return found


def _overlapping(segment: Segment, later: Sequence[_LaterSession]) -> tuple[_LaterSession, ...]:
    """Returns the sessions whose first step of a tag is not beyond the segment's last one."""
    if not later or not segment.largest_steps:
        return ()
    tags = np.fromiter(segment.largest_steps, np.int64)
    largest = np.fromiter(segment.largest_steps.values(), np.int64)
    return tuple(one for one in later if np.any(largest >= one.first_steps[tags]))
