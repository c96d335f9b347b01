"""`Run`: a run directory that is read lazily, in bounded memory."""

import os
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tbtrainer.reading import frames, wire
from tbtrainer.reading.batch import Batch
from tbtrainer.reading.block_lines import block_lines, blocks_frame
from tbtrainer.reading.health import health_lines
from tbtrainer.reading.hparams import TAGS, HParams, read_hparams
from tbtrainer.reading.index import Progress, RunIndex, ScannedFile, index_of
from tbtrainer.reading.records import Record, ScalarChunk, TableChunk, TagInfo
from tbtrainer.reading.replaced import Replaced, replaced
from tbtrainer.reading.run_files import Folder, event_files, folder_of
from tbtrainer.reading.segments import tag_steps
from tbtrainer.reading.sessions import Session, session_numbers, sessions_of
from tbtrainer.reading.tables import KIND_OF_TABLE, table_columns, without_rows
from tbtrainer.reading.tag_counts import TagCounts, tag_infos
from tbtrainer.reading.values import decoded_or_none
from tbtrainer.reading.visible import VisibleRows, visible_rows
from tbtrainer.redaction import shown

if TYPE_CHECKING:
    import pandas


class Run:
    """A run directory, read when something is asked for.

    The first question reads all event files once, to find the tags, the sessions and what later
    sessions have replaced. This is kept. What is written after that is not seen: make a new `Run`.

    The frames are kept, too, once they were asked for. They need pandas, and are as large as what
    they hold; everything else needs a few tens of megabytes, whatever the size of the run.

    Args:
        path: The run directory: a local path, or a URL that fsspec knows.
        include_rewound: Whether values that later sessions have replaced are shown, too.
        progress: Called during each pass with the bytes read so far and those of all files.

    Attributes:
        path: The run directory.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As `read_run` does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        include_rewound: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._folder: Folder = folder_of(path)
        self.path = self._folder.path
        self._event_files = event_files(self._folder, with_removed=include_rewound)
        self._include_rewound = include_rewound
        self._progress = progress

    def __repr__(self) -> str:
        return f"Run({shown(self.path)!r})"

    # ---- What there is ----

    @property
    def files(self) -> list[ScannedFile]:
        """The event files, in the order read, and how many bytes of each were not read."""
        return list(self._index.files)

    @cached_property
    def sessions(self) -> list[Session]:
        """The sessions, in the order read: each training, and each part of one that was resumed."""
        names = [file.name for file in self._event_files]
        return sessions_of(self._index.segments, self._session_numbers, names)

    def tags(self) -> dict[str, TagInfo]:
        """Returns what the run has under each tag, in the order in which the tags appear."""
        return tag_infos(self._index.tags, self._counts)

    # ---- Values one after another ----

    def scalar_chunks(self, tags: Collection[str] | None = None) -> Iterator[ScalarChunk]:
        """Yields the scalars in the order read, in chunks of a few megabytes.

        Args:
            tags: Only these; `None` for all.
        """
        table = self._index.tags
        for part in self._visible_rows(tags):
            is_scalar = table.are_scalars(part.tag, part.batch.field[part.rows])
            rows, batch = part.rows[is_scalar], part.batch
            if len(rows):
                yield ScalarChunk(
                    table.names,
                    part.tag[is_scalar],
                    batch.step[rows],
                    batch.wall_time[rows],
                    batch.value[rows],
                    np.full(len(rows), part.session, np.int32),
                )

    def iter_records(self, tags: Collection[str] | None = None) -> Iterator[Record]:
        """Yields every value in the order read, decoded.

        Args:
            tags: Only these; `None` for all.
        """
        table = self._index.tags
        for part in self._visible_rows(tags):
            batch = part.batch
            for row, number in zip(part.rows.tolist(), part.tag.tolist(), strict=True):
                kind = table.kind(number, int(batch.field[row]))
                yield Record(
                    table.names[number],
                    kind,
                    int(batch.step[row]),
                    float(batch.wall_time[row]),
                    part.session,
                    _value(batch, row, kind),
                )

    def table_chunks(self, name: str, tags: Collection[str] | None = None) -> Iterator[TableChunk]:
        """Yields the rows of a frame in the order read, in chunks of a few megabytes.

        They have the columns of the frame, and need neither pandas nor more memory for a larger
        run. Chunks without rows are left out.

        Args:
            name: Which frame: "scalars", "histograms", "texts", "images" or "pr_curves".
            tags: Only these; `None` for all.

        Raises:
            ValueError: There is no frame of this name.
        """
        if name not in KIND_OF_TABLE:
            allowed = ", ".join(map(repr, KIND_OF_TABLE))
            raise ValueError(f"name={name!r} is no frame of a run; it can be {allowed}.")
        return self._scalar_tables(tags) if name == "scalars" else self._tables(name, tags)

    # ---- Hyper-parameters and health ----

    @cached_property
    def hparams(self) -> HParams:
        """The hyper-parameters of the run, its metrics and its end status."""
        return read_hparams(self.iter_records(TAGS))

    @cached_property
    def health(self) -> list[dict[str, Any]]:
        """The lines of `health.jsonl`: what was not finite, and where. Empty if there is none."""
        return health_lines(self._folder, with_removed=self._include_rewound)

    # ---- Frames ----

    @cached_property
    def blocks(self) -> "pandas.DataFrame":
        """All blocks at each kept snapshot: target, step, wall_time, block, rms, and more."""
        return blocks_frame(block_lines(self._folder, with_removed=self._include_rewound))

    @cached_property
    def scalars(self) -> "pandas.DataFrame":
        """All scalars: columns tag, step, wall_time, value, session."""
        return frames.scalars(self.scalar_chunks(), self._index.tags.names, self._count("scalar"))

    @cached_property
    def histograms(self) -> "pandas.DataFrame":
        """All histograms, a row each: columns tag, step, wall_time, session, and more.

        The others are `count`, `min`, `max`, `mean`, `std` and `rms`, the quantiles `p1`, `p5`,
        `p25`, `p50`, `p75`, `p95` and `p99`, linear within a bucket, and the buckets themselves:
        the arrays `edges` and `counts`. There is one more edge than counts.
        """
        return self._frame("histograms")

    @cached_property
    def texts(self) -> "pandas.DataFrame":
        """All texts: columns tag, step, wall_time, session, text."""
        return self._frame("texts")

    @cached_property
    def images(self) -> "pandas.DataFrame":
        """All pictures: columns tag, step, wall_time, session, width, height, image.

        `image` is a `StoredImage`; its `read()` fetches the bytes of the picture from the file.
        """
        return self._frame("images")

    @cached_property
    def pr_curves(self) -> "pandas.DataFrame":
        """All PR curves, a row per threshold: columns tag, step, wall_time, session, and more.

        The others are `threshold`, `precision`, `recall`, `true_positives`, `false_positives`,
        `true_negatives` and `false_negatives`.
        """
        return self._frame("pr_curves")

    def _frame(self, name: str) -> "pandas.DataFrame":
        empty = without_rows(name, self._index.tags, self._folder)
        return frames.joined(self._tables(name, None), self._index.tags.names, empty)

    def _scalar_tables(self, tags: Collection[str] | None) -> Iterator[TableChunk]:
        """Yields the scalars with their columns in the order of the frame."""
        for chunk in self.scalar_chunks(tags):
            columns = {name: getattr(chunk, name) for name in frames.SCALAR_DTYPES}
            yield TableChunk(chunk.names, columns)

    def _tables(self, name: str, tags: Collection[str] | None) -> Iterator[TableChunk]:
        """Yields the rows of a frame, but for scalars. Reads only files that may have some."""
        table, counts = self._index.tags, self._index.counts
        kind, asked_for = KIND_OF_TABLE[name], set(table.names if tags is None else tags)
        chosen = {
            tag
            for number, tag in enumerate(table.names)
            if tag in asked_for
            and any(table.kind(number, field) == kind for field in counts.of(number))
        }
        for part in self._visible_rows(chosen) if chosen else ():
            chunk = TableChunk(table.names, table_columns(name, part, table, self._folder))
            if len(chunk):
                yield chunk

    def _count(self, kind: str) -> int:
        """Returns how many values of a kind there are."""
        table, counts = self._index.tags, self._counts
        return sum(
            count
            for number in range(len(table.names))
            for field, count in counts.of(number).items()
            if table.kind(number, field) == kind
        )

    # ---- The passes over the files ----

    def _visible_rows(self, tags: Collection[str] | None = None) -> Iterator[VisibleRows]:
        """Yields the values of some tags batch by batch, not decoded; `None` for all tags."""
        return visible_rows(
            self._folder, self._index, self._replaced, self._session_numbers, tags, self._progress
        )

    @cached_property
    def _index(self) -> RunIndex:
        return index_of(self._folder, self._event_files, self._progress)

    @cached_property
    def _session_numbers(self) -> list[int]:
        names = [file.name for file in self._event_files]
        removed_from = [file.removed_from for file in self._event_files]
        return session_numbers(self._index.segments, names, removed_from)

    @cached_property
    def _replaced(self) -> list[Replaced]:
        if self._include_rewound:
            return [Replaced()] * len(self._index.segments)
        return replaced(self._index.segments, self._session_numbers, len(self._index.tags.names))

    @cached_property
    def _counts(self) -> TagCounts:
        """Counts of the values that are not replaced. Needs a second pass if some are."""
        if not any(self._replaced):
            return self._index.counts
        counts = TagCounts()
        for part in self._visible_rows():
            tag, step = part.batch.tag[part.rows], part.batch.step[part.rows]
            steps = tag_steps(tag, step, len(part.batch.tags))
            numbers = self._index.tags.known_numbers(part.batch)
            counts.add(tag, part.batch.field[part.rows], steps, numbers)
        return counts


def _value(batch: Batch, row: int, kind: str) -> Any:
    if kind == "scalar" and batch.field[row] in (wire.SIMPLE_VALUE, wire.NUMBER):
        return float(batch.value[row])
    return decoded_or_none(kind, batch.value_bytes(row))


def read_run(
    path: str | os.PathLike[str],
    *,
    include_rewound: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Returns a run, whose files are read when something is asked for: those of any writer.

    Args:
        path: The run directory: a local path, or a URL that fsspec knows. Event files are directly
            in it; `find_runs` finds such directories.
        include_rewound: Whether values that later sessions have replaced are shown, too.
        progress: Called during each pass with the bytes read so far and those of all files.

    Raises:
        FileNotFoundError: There is no such directory, or no event file is directly in it
            (`NotARun`, whose message names the runs below it).
        NotADirectoryError: The path is that of a file.
        ValueError: fsspec cannot open the URL.
    """
    return Run(path, include_rewound=include_rewound, progress=progress)
