"""The second and later passes over the event files of a run: the values that are shown."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading.batch import Batch
from tbtrainer.reading.index import Progress, RunIndex
from tbtrainer.reading.replaced import Replaced
from tbtrainer.reading.run_files import Folder
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.segments import parts_of


@dataclass(frozen=True)
class VisibleRows:
    """Rows of a batch that are shown: their tag was asked for, and no later session replaced them.

    Attributes:
        batch: The batch.
        rows: The rows. int64, shape (rows,).
        tag: Their tags, as numbers of the run's `TagTable`. int32, shape (rows,).
        session: Their session, an index into `Run.sessions`.
        file: The name of their file.
    """

    batch: Batch
    rows: NDArray[np.int64]
    tag: NDArray[np.int32]
    session: int
    file: str


def visible_rows(
    folder: Folder,
    index: RunIndex,
    replaced: Sequence[Replaced],
    sessions: Sequence[int],
    tags: Collection[str] | None,
    progress: Progress | None,
) -> Iterator[VisibleRows]:
    """Yields the values that later sessions have not replaced, in the order read.

    Each file is read as far as the first pass read it. If a training resumed meanwhile, and rewrote
    a file, tags that the first pass did not find are left out.

    Args:
        folder: The run directory.
        index: What the first pass found.
        replaced: Which values of each segment are left out.
        sessions: The session of each segment.
        tags: Only these; `None` for all.
        progress: Called with the bytes read so far, and those of all files.
    """
    wanted = _wanted(index, tags)
    total = sum(file.end for file in index.files)
    done = 0
    segments_of: list[list[int]] = [[] for _ in index.files]
    for place, segment in enumerate(index.segments):
        segments_of[segment.file].append(place)
    for file, own in zip(index.files, segments_of, strict=True):
        if not file.end or not _has_wanted(index, own, wanted):
            done += file.end
            continue
        with folder.open(file.name) as opened:
            starts = 0
            for batch in Scan(opened, end=file.end):
                numbers = index.tags.known_numbers(batch)
                for part in parts_of(batch):
                    starts += part.start is not None
                    # More than the first pass found, if a training rewrote the file meanwhile.
                    place = own[min(starts, len(own) - 1)]
                    found, tag = _chosen(batch, part.rows, numbers, wanted, replaced[place])
                    if len(found):
                        yield VisibleRows(batch, found, tag, sessions[place], file.name)
                if progress is not None:
                    progress(min(done + batch.position + len(batch.data), total), total)
        done += file.end


def _wanted(index: RunIndex, tags: Collection[str] | None) -> NDArray[np.bool_]:
    """Returns for each tag whether it is asked for; False for -1, an unknown tag."""
    names = index.tags.names
    asked_for = set(names if tags is None else tags)
    chosen = [name in asked_for for name in names]
    return np.array([*chosen, False], dtype=bool)


def _has_wanted(index: RunIndex, segments: Sequence[int], wanted: NDArray[np.bool_]) -> bool:
    """Whether some segment has a value of a tag that is asked for."""
    return any(wanted[number] for place in segments for number in index.segments[place].first_steps)


def _chosen(
    batch: Batch,
    rows: slice,
    numbers: NDArray[np.int32],
    wanted: NDArray[np.bool_],
    replaced: Replaced,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Returns the rows that are shown, and their tags."""
    found = np.arange(rows.start, rows.stop)
    if not len(found):
        return found, np.zeros(0, np.int32)
    tag = numbers[batch.tag[rows]]
    chosen = wanted[tag]
    if replaced:
        chosen = chosen & ~replaced.mask(tag, batch.step[rows], batch.wall_time[rows])
    return found[chosen], tag[chosen]
