"""Sessions of a run: what each writer has written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tbtrainer.event_file.names import is_first_file
from tbtrainer.reading.segments import Segment

# tbtrainer's own names have a hyphen before the last number; see `event_file_name`.
_OWN_NAME = re.compile(r"events\.out\.tfevents\.\d+\.(.+\.\d+)-\d+")


@dataclass(frozen=True)
class Session:
    """What one writer wrote into a run: a training, or the part of one until it was resumed.

    Attributes:
        index: Its number, from 0 in the order read.
        files: Names of its event files.
        start_step: Step of its START event: values of earlier sessions from this step on are
            replaced. `None` for a session without one.
        first_step: Smallest step of its values; `None` if it has none.
        last_step: Largest step of its values; `None` if it has none.
        first_wall_time: When its first event was written, in seconds since 1970.
        last_wall_time: When its last event was written.
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


def session_numbers(
    segments: Sequence[Segment], names: Sequence[str], removed_from: Sequence[str | None]
) -> list[int]:
    """Returns the number of the session of each segment.

    A session begins with a START event, and with each file. Three kinds of files begin none: those
    that tbtrainer begins without a START event in a process that has written a file before, those
    with what a rewind took out, and those that tbtrainer names so that they are read first. The
    empty segment before a START event has the number of the session before.

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
        elif is_first_file(name) or (segment.start_step is None and not segment.values):
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


def sessions_of(
    segments: Sequence[Segment], numbers: Sequence[int], names: Sequence[str]
) -> list[Session]:
    """Returns the sessions of a run, in the order read.

    Args:
        segments: All segments, in the order read.
        numbers: The session of each segment.
        names: Of the files.
    """
    segments_of: dict[int, list[Segment]] = {}
    for segment, number in zip(segments, numbers, strict=True):
        if segment.values or segment.start_step is not None:
            segments_of.setdefault(number, []).append(segment)
    return [_session(number, segments_of[number], names) for number in sorted(segments_of)]


def _session(index: int, segments: Sequence[Segment], names: Sequence[str]) -> Session:
    smallest = [s.smallest_step for s in segments if s.smallest_step is not None]
    largest = [s.largest_step for s in segments if s.largest_step is not None]
    starts = [s.start_step for s in segments if s.start_step is not None]
    return Session(
        index=index,
        files=tuple(dict.fromkeys(names[segment.file] for segment in segments)),
        start_step=starts[0] if starts else None,
        first_step=min(smallest, default=None),
        last_step=max(largest, default=None),
        first_wall_time=min(segment.begins for segment in segments),
        last_wall_time=max(max(segment.ends, segment.begins) for segment in segments),
        values=sum(segment.values for segment in segments),
    )
