"""The first pass over the event files of a run: its tags, its sessions, and how far they go."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tbtrainer.reading.batch import Batch
from tbtrainer.reading.run_files import EventFile, Folder
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.segments import Segment, parts_of, tag_steps
from tbtrainer.reading.tag_counts import TagCounts
from tbtrainer.reading.tag_table import TagTable
from tbtrainer.redaction import shown

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScannedFile:
    """What was found in an event file.

    Attributes:
        name: Its name in the run directory.
        bytes: Its size when it was read.
        unread_bytes: How many bytes at its end were not read.
        reason: Why: "torn" if the file ends within an event, as that of a running training may;
            "damaged" if a checksum is wrong; "unreadable" if the file could not be opened or
            read. Empty if all was read.
        events: How many events were read.
        removed_from: The event file from which a rewind took this out; `None` for an event file.
    """

    name: str
    bytes: int
    unread_bytes: int
    reason: str
    events: int
    removed_from: str | None = None

    @property
    def end(self) -> int:
        """Where reading stopped."""
        return self.bytes - self.unread_bytes


@dataclass
class RunIndex:
    """What the first pass found.

    Attributes:
        tags: Names and metadata of the tags.
        files: What was found in each file, in the order read.
        segments: All segments, in the order read. Each file has one, and one more per START event.
        counts: Of all values, those included that later sessions have replaced.
    """

    tags: TagTable = field(default_factory=TagTable)
    files: list[ScannedFile] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    counts: TagCounts = field(default_factory=TagCounts)


def index_of(folder: Folder, files: Sequence[EventFile], progress: Progress | None) -> RunIndex:
    """Reads all event files of a run once. Logs which are damaged or cannot be read.

    Args:
        folder: The run directory.
        files: Its event files, in the order in which they are read.
        progress: Called with the bytes read so far, and the bytes of all files.
    """
    index = RunIndex()
    total = sum(file.bytes for file in files)
    done = 0
    for number, file in enumerate(files):

        def show(read: int, before: int = done) -> None:
            if progress is not None:
                progress(min(before + read, total), total)

        index.segments.append(Segment(number, None, np.inf))
        index.files.append(_scanned(folder, file, number, index, show))
        done += file.bytes
    return index


def _scanned(
    folder: Folder, file: EventFile, number: int, index: RunIndex, show: Callable[[int], None]
) -> ScannedFile:
    """Adds what is in a file to the index."""
    end, events = 0, 0
    try:
        with folder.open(file.name) as opened:
            scan = Scan(opened)
            for batch in scan:
                events += batch.events
                _add(index, number, batch)
                end = scan.end
                show(end)
        size, unread, reason = scan.end + scan.unread_bytes, scan.unread_bytes, scan.reason
    except OSError as error:
        size = max(file.bytes, end)
        unread, reason = size - end, "unreadable"
        logger.warning("%s cannot be read after byte %d: %s", shown(file.name), end, shown(error))
    if reason == "damaged":
        logger.warning(
            "%s is damaged at byte %d. The %d bytes from there on are not read.",
            shown(file.name),
            size - unread,
            unread,
        )
    return ScannedFile(file.name, size, unread, reason, events, file.removed_from)


def _add(index: RunIndex, file: int, batch: Batch) -> None:
    numbers = index.tags.numbers(batch)
    index.tags.add_metadata(batch, numbers)
    for part in parts_of(batch):
        if part.start is not None:
            begins = float(batch.wall_time[part.start])
            index.segments.append(Segment(file, int(batch.step[part.start]), begins))
        elif batch.position == 0 and np.isinf(index.segments[-1].begins):
            index.segments[-1].begins = batch.first_wall_time
        if part.rows.start < part.rows.stop:
            steps = tag_steps(batch.tag[part.rows], batch.step[part.rows], len(batch.tags))
            index.segments[-1].add(batch, part.rows, steps, numbers)
            index.counts.add(batch.tag[part.rows], batch.field[part.rows], steps, numbers)
