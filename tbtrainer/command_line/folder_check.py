"""Reads the event files of one folder, and finds what is wrong with records, order and sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tbtrainer.command_line.checked_files import CheckedFiles
from tbtrainer.command_line.progress import Advanced
from tbtrainer.command_line.record_damage import Damage, damages_of
from tbtrainer.command_line.step_repeats import StepRepeats
from tbtrainer.reading.index import RunIndex, index_of
from tbtrainer.reading.replaced import Replaced, replaced
from tbtrainer.reading.run_files import EventFile
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.segments import Segment, parts_of
from tbtrainer.reading.sessions import Session, session_numbers, sessions_of

# Clocks of two processes of one machine are the same, but a record's time is taken before it is
# written.
_SLACK_SECONDS = 1.0


@dataclass(frozen=True)
class FolderCheck:
    """What was found in the event files of one folder.

    Attributes:
        index: What is in the files, each up to its first damage.
        sessions: In the order read.
        numbers: The session of each segment of the index.
        hidden: Which values of each segment later sessions have replaced.
        damages: The damaged parts of the files that have any.
        replaced_values: How many replaced values each file still holds.
        repeats: Scalars, not replaced, whose step their tag already had.
    """

    index: RunIndex
    sessions: Sequence[Session]
    numbers: Sequence[int]
    hidden: Sequence[Replaced]
    damages: dict[str, list[Damage]]
    replaced_values: dict[str, int]
    repeats: StepRepeats

    def in_order_of_time(self) -> list[str]:
        """Returns the files in the order in which they were begun.

        Files whose values do not touch each other stay in the order of the loaders.
        """
        order = list(range(len(self.index.files)))
        for late in range(len(order)):
            for early in range(late, 0, -1):
                if not self._is_before(order[early], order[early - 1]):
                    break
                order[early], order[early - 1] = order[early - 1], order[early]
        return [self.index.files[number].name for number in order]

    def _is_before(self, later: int, earlier: int) -> bool:
        """Whether a file that is read later was begun earlier, and has earlier steps of a tag."""
        return any(
            one.begins + _SLACK_SECONDS < other.begins and _steps_back(other, one)
            for one in self._segments_of_file[later]
            for other in self._segments_of_file[earlier]
            if np.isfinite(one.begins) and np.isfinite(other.begins)
        )

    @cached_property
    def _segments_of_file(self) -> dict[int, list[Segment]]:
        found: dict[int, list[Segment]] = {}
        for segment in self.index.segments:
            found.setdefault(segment.file, []).append(segment)
        return found

    @cached_property
    def _segments_of_session(self) -> dict[int, list[Segment]]:
        found: dict[int, list[Segment]] = {}
        for segment, number in zip(self.index.segments, self.numbers, strict=True):
            found.setdefault(number, []).append(segment)
        return found

    def at_the_same_time(self) -> list[tuple[Session, Session]]:
        """Returns pairs of sessions that wrote the same tags at the same time."""
        found = []
        for number, session in enumerate(self.sessions):
            for other in self.sessions[number + 1 :]:
                overlaps = (
                    session.first_wall_time < other.last_wall_time - _SLACK_SECONDS
                    and other.first_wall_time < session.last_wall_time - _SLACK_SECONDS
                )
                if overlaps and self._share_a_tag(session.index, other.index):
                    found.append((session, other))
        return found

    def _share_a_tag(self, one: int, other: int) -> bool:
        return any(
            not first.first_steps.keys().isdisjoint(second.first_steps)
            for first in self._segments_of_session[one]
            for second in self._segments_of_session[other]
        )


def check_folder(
    files: CheckedFiles, event_files: Sequence[EventFile], advanced: Advanced | None
) -> FolderCheck:
    """Reads the event files of one folder twice.

    Args:
        files: The run directory.
        event_files: The files of the folder, in the order of the loaders.
        advanced: Called while they are read.
    """
    index = index_of(files, event_files, advanced)
    names = [file.name for file in index.files]
    numbers = session_numbers(index.segments, names, [None] * len(names))
    hidden = replaced(index.segments, numbers, len(index.tags.names))
    replaced_values, repeats = _second_pass(files, index, hidden, advanced)
    damages = {}
    for file in index.files:
        if file.reason in ("torn", "damaged"):
            with files.open(file.name) as opened:
                damages[file.name] = damages_of(opened, file.end, advanced)
    return FolderCheck(
        index,
        sessions_of(index.segments, numbers, names),
        numbers,
        hidden,
        damages,
        replaced_values,
        repeats,
    )


def _second_pass(
    files: CheckedFiles, index: RunIndex, hidden: Sequence[Replaced], advanced: Advanced | None
) -> tuple[dict[str, int], StepRepeats]:
    """Counts the values that later sessions have replaced, and the steps that repeat."""
    counts: dict[str, int] = {}
    repeats = StepRepeats()
    total = sum(file.end for file in index.files)
    segment, done = -1, 0
    for file in index.files:
        segment += 1
        if file.reason == "unreadable" and not file.end:
            continue
        with files.open(file.name) as opened:
            for batch in Scan(opened, end=file.end):
                numbers = index.tags.numbers(batch)
                for part in parts_of(batch):
                    rows = part.rows
                    segment += part.start is not None
                    if rows.stop <= rows.start:
                        continue
                    tag, step = numbers[batch.tag[rows]], batch.step[rows]
                    is_hidden = hidden[segment].mask(tag, step, batch.wall_time[rows])
                    counts[file.name] = counts.get(file.name, 0) + int(is_hidden.sum())
                    chosen = index.tags.are_scalars(tag, batch.field[rows]) & ~is_hidden
                    repeats.add(tag[chosen], step[chosen], batch.value[rows][chosen])
                if advanced is not None:
                    advanced(done + batch.position + len(batch.data), total)
        done += file.end
    return {name: count for name, count in counts.items() if count}, repeats


def _steps_back(first: Segment, second: Segment) -> bool:
    """Whether some tag has a step in the second segment that is not beyond those of the first."""
    return any(
        first.largest_steps[tag] >= second.first_steps[tag]
        for tag in first.largest_steps.keys() & second.first_steps.keys()
    )
