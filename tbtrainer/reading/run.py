"""`Run`: a run directory that is read lazily, in bounded memory."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading import frames, wire
from tbtrainer.reading.batch import Batch
from tbtrainer.reading.health import health_lines
from tbtrainer.reading.hparams import TAGS, HParams, hparams_of
from tbtrainer.reading.index import (
    Progress,
    RunIndex,
    ScannedFile,
    TagCounts,
    index_of,
    segments_in,
)
from tbtrainer.reading.run_files import Folder, event_files, folder_of
from tbtrainer.reading.scanner import Scan
from tbtrainer.reading.sessions import (
    Replaced,
    Session,
    replaced,
    session_numbers,
    sessions_of,
)
from tbtrainer.reading.tensors import UnreadableValue
from tbtrainer.reading.values import decoded

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ScalarChunk:
    """Consecutive scalars of a run.

    Attributes:
        names: The tags of the run; `tag` is an index into them. The same list in all chunks.
        tag: int32, shape (scalars,).
        step: int64, shape (scalars,).
        wall_time: When each was written, in seconds since 1970. float64, shape (scalars,).
        value: float64, shape (scalars,).
        session: Index into `Run.sessions`. int32, shape (scalars,).
    """

    names: list[str]
    tag: NDArray[np.int32]
    step: NDArray[np.int64]
    wall_time: NDArray[np.float64]
    value: NDArray[np.float64]
    session: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tag)


@dataclass(frozen=True)
class Record:
    """One value of a run.

    Attributes:
        tag: Its tag.
        kind: "scalar", "histogram", "text", "image", "pr_curve", "hparams", "audio" or "tensor";
            for what another plugin of TensorBoard shows, the name of the plugin.
        step: Its step.
        wall_time: When it was written, in seconds since 1970.
        session: Index into `Run.sessions`.
        value: A `float` for a scalar, a `str` for a text, a `HistogramValue`, `ImageValue` or
            `PrCurveValue`; for other kinds what `tbtrainer.reading.values.decoded` returns. `None`
            if the bytes cannot be read as what the kind says.
    """

    tag: str
    kind: str
    step: int
    wall_time: float
    session: int
    value: Any


@dataclass(frozen=True)
class TagInfo:
    """What a run has under a tag.

    Attributes:
        kind: As in `Record`. Of several kinds under one tag, that with the most values.
        count: How many values there are.
        first_step: Step of the first one.
        last_step: Step of the last one.
        description: What the tag means, in Markdown; empty if the writer did not say it.
    """

    kind: str
    count: int
    first_step: int
    last_step: int
    description: str


@dataclass(frozen=True)
class Rows:
    """Visible values of a batch.

    Attributes:
        batch: The batch.
        rows: Their rows in it. int64, shape (values,).
        tag: Their tags, as numbers of the run's table. int32, shape (values,).
        session: Their session.
        file: The name of their file.
    """

    batch: Batch
    rows: NDArray[np.int64]
    tag: NDArray[np.int32]
    session: int
    file: str


class Run:
    """A run directory, read when something is asked for.

    The first question reads all event files once, to find tags, sessions and what later sessions
    have replaced; this is kept. What is written later is not seen: make a new `Run` for that.

    Args:
        path: The run directory: a local path, or a URL that fsspec knows.
        include_rewound: Whether values that later sessions have replaced are shown, too.
        progress: Called during each pass over the files, with the bytes read so far and those of
            all files.

    Raises:
        FileNotFoundError: There is no such directory, or it has no event files (`NotARun`).
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
        return f"Run({self.path!r})"

    # ---- What there is ----

    @property
    def files(self) -> list[ScannedFile]:
        """The event files, in the order read, and how many bytes of each were not read."""
        return list(self._index.files)

    @cached_property
    def sessions(self) -> list[Session]:
        """The sessions, in the order read."""
        names = [file.name for file in self._event_files]
        return sessions_of(self._index.segments, self._session_numbers, names)

    def tags(self) -> dict[str, TagInfo]:
        """Returns what the run has under each tag, in the order in which the tags appear."""
        table, counts = self._index.tags, self._counts
        found = {}
        for number, name in enumerate(table.names):
            kinds: dict[str, int] = {}
            for row_kind, count in counts.of(number).items():
                kind = table.kind(number, row_kind)
                kinds[kind] = kinds.get(kind, 0) + count
            if kinds:
                found[name] = TagInfo(
                    kind=max(kinds, key=lambda kind: kinds[kind]),
                    count=sum(kinds.values()),
                    first_step=counts.first_steps[number],
                    last_step=counts.last_steps[number],
                    description=table.metadata(number).description,
                )
        return found

    # ---- Values one after another ----

    def scalar_chunks(self, tags: Collection[str] | None = None) -> Iterator[ScalarChunk]:
        """Yields the scalars in the order read, in chunks of some megabytes.

        Args:
            tags: Only these; `None` for all.
        """
        names, are_scalars = self._index.tags.names, self._index.tags.are_scalars()
        for part in self.rows(tags):
            kind = part.batch.kind[part.rows]
            chosen = (kind == wire.SIMPLE_VALUE) | (
                (kind == wire.NUMBER) & are_scalars[part.tag]
            )
            rows, batch = part.rows[chosen], part.batch
            if len(rows):
                yield ScalarChunk(
                    names,
                    part.tag[chosen],
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
        for part in self.rows(tags):
            batch = part.batch
            for row, number in zip(part.rows.tolist(), part.tag.tolist(), strict=True):
                row_kind = int(batch.kind[row])
                kind = table.kind(number, row_kind)
                yield Record(
                    table.names[number],
                    kind,
                    int(batch.step[row]),
                    float(batch.wall_time[row]),
                    part.session,
                    _value(batch, row, row_kind, kind),
                )

    def rows(self, tags: Collection[str] | None = None) -> Iterator[Rows]:
        """Yields the visible values batch by batch, not decoded; for readers of this package."""
        names = self._index.tags.names
        wanted = None if tags is None else np.isin(np.array(names, dtype=object), list(tags))
        total = sum(file.end for file in self._index.files)
        segment, done = -1, 0
        for file in self._index.files:
            segment += 1
            if file.reason == "unreadable" and not file.end:
                continue
            with self._folder.open(file.name) as opened:
                for batch in Scan(opened, end=file.end):
                    numbers = self._index.tags.numbers(batch)
                    for start, rows in segments_in(batch):
                        segment += start is not None
                        found = self._visible(batch, rows, numbers, segment, wanted)
                        if len(found.rows):
                            yield found
                    if self._progress is not None:
                        self._progress(done + batch.position + len(batch.data), total)
            done += file.end

    def _visible(
        self,
        batch: Batch,
        rows: slice,
        numbers: NDArray[np.int32],
        segment: int,
        wanted: NDArray[np.bool_] | None,
    ) -> Rows:
        found = np.arange(rows.start, rows.stop)
        tag = numbers[batch.tag[rows]] if len(found) else np.zeros(0, np.int32)
        if wanted is not None:
            chosen = wanted[tag]
            found, tag = found[chosen], tag[chosen]
        hidden = self._replaced[segment]
        if hidden:
            chosen = ~hidden.mask(tag, batch.step[found], batch.wall_time[found])
            found, tag = found[chosen], tag[chosen]
        name = self._event_files[self._index.segments[segment].file].name
        return Rows(batch, found, tag, self._session_numbers[segment], name)

    # ---- Hyper-parameters and health ----

    @cached_property
    def hparams(self) -> HParams:
        """The hyper-parameters of the run, its metrics and its end status."""
        latest = {
            record.tag: record.value
            for record in self.iter_records(TAGS)
            if isinstance(record.value, bytes)
        }
        return hparams_of(latest)

    @cached_property
    def health(self) -> list[dict[str, Any]]:
        """The lines of `health.jsonl`: what was not finite, and where. Empty if there is none."""
        return health_lines(self._folder, with_removed=self._include_rewound)

    # ---- Frames ----

    @cached_property
    def scalars(self) -> "pandas.DataFrame":
        """All scalars: columns tag, step, wall_time, value, session. Needs pandas."""
        return frames.scalars(self)

    # ---- The first pass ----

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
        return replaced(self._index.segments, self._session_numbers)

    @cached_property
    def _counts(self) -> TagCounts:
        """Counts of the visible values. A second pass is made if not all are visible."""
        if not any(self._replaced):
            return self._index.counts
        counts = TagCounts()
        for part in self.rows():
            counts.add(part.tag, part.batch.kind[part.rows], part.batch.step[part.rows])
        return counts


def _value(batch: Batch, row: int, row_kind: int, kind: str) -> Any:
    if kind == "scalar" and row_kind in (wire.SIMPLE_VALUE, wire.NUMBER):
        return float(batch.value[row])
    try:
        return decoded(kind, batch.value_bytes(row))
    except UnreadableValue:
        return None


def read_run(
    path: str | os.PathLike[str],
    *,
    include_rewound: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Returns a run directory that can be read: see `Run`."""
    return Run(path, include_rewound=include_rewound, progress=progress)
