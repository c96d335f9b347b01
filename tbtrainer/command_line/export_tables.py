"""What `tbtrainer export` can write: each thing that a run holds, as a table."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.run_facts import card_of
from tbtrainer.command_line.table_formats import Column
from tbtrainer.command_line.tag_choice import matching
from tbtrainer.reading import Run, TableChunk
from tbtrainer.reading.histogram_table import PERCENTS
from tbtrainer.redaction import redacted, redacted_card, shown

# How many texts of small tables are held at a time.
_ROWS = 1000


@dataclass(frozen=True)
class Table:
    """A table that can be exported.

    Attributes:
        rows: What its rows are, in the plural, for messages.
        columns: Its columns, in order.
        chunks: Yields its rows. The tags are those that are wanted; `None` for all.
        kind: The kind of the tags that it has rows of. Empty for tags of any kind; `None` for a
            table that is not about tags.
    """

    rows: str
    columns: tuple[Column, ...]
    chunks: Callable[[Run, Collection[str] | None], Iterator[TableChunk]]
    kind: str | None


_TAG = Column("tag", "tag")
_STEP, _SESSION = Column("step", "int"), Column("session", "int")
_WALL_TIME = Column("wall_time", "float")
_STAMPS = (_TAG, _STEP, _WALL_TIME, _SESSION)


def table_of(what: str) -> Table:
    """Returns the table of a name.

    Raises:
        UsageError: There is none. The message names the tables.
    """
    if what in TABLES:
        return TABLES[what]
    near = difflib.get_close_matches(what, TABLES, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"--what {shown(what)} is no table of a run; it can be {', '.join(TABLES)}.{hint}"
    )


def wanted_tags(table: Table, run: Run, pattern: re.Pattern[str] | None) -> list[str] | None:
    """Returns the tags that are exported; `None` for all.

    Args:
        table: The table.
        run: The run.
        pattern: What is searched for in the tags; `None` for all tags.

    Raises:
        UsageError: No tag matches, or the table is not about tags.
    """
    if pattern is None:
        return None
    if table.kind is None:
        others = [name for name, other in TABLES.items() if other.kind is not None]
        raise UsageError(f"--tags can be used with --what {', '.join(others)}.")
    infos = run.tags().items()
    names = [tag for tag, info in infos if not table.kind or info.kind == table.kind]
    return matching(names, pattern)


# ---- The rows of each table ----


def _of_frame(name: str, run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    return run.table_chunks(name, tags)


def _texts(run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    """Yields the texts. A card may hold arguments, whose names say which of them are secret."""
    for chunk in run.table_chunks("texts", tags):
        names = [chunk.names[number] for number in chunk.columns["tag"].tolist()]
        texts = [
            redacted_card(text, card_of(name))
            for text, name in zip(chunk.columns["text"], names, strict=True)
        ]
        yield TableChunk(chunk.names, {**chunk.columns, "text": texts})


def _tags(run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    infos = run.tags()
    chosen = list(infos) if tags is None else list(tags)
    rows = (
        (number, info.kind, info.count, info.first_step, info.last_step, info.description)
        for number, info in enumerate(map(infos.__getitem__, chosen))
    )
    return _chunks(_TAG_COLUMNS, rows, chosen)


def _hparams(run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    return _chunks(_HPARAM_COLUMNS, redacted(run.hparams.values).items())


def _health(run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    rows = (
        (line["step"], float(line["time"]), str(line.get("message", "")), _rest(line))
        for line in run.health
    )
    return _chunks(_HEALTH_COLUMNS, rows)


def _rest(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("step", "time", "message")}


def _sessions(run: Run, tags: Collection[str] | None) -> Iterator[TableChunk]:
    rows = (
        (
            *(session.index, session.start_step, session.first_step, session.last_step),
            *(session.first_wall_time, session.last_wall_time, session.values, session.files),
        )
        for session in run.sessions
    )
    return _chunks(_SESSION_COLUMNS, rows)


def _chunks(
    columns: Sequence[Column], rows: Iterable[Sequence[Any]], names: Sequence[str] = ()
) -> Iterator[TableChunk]:
    """Yields the rows of a small table."""
    found = list(rows)
    for begin in range(0, len(found), _ROWS):
        cells = map(list, zip(*found[begin : begin + _ROWS], strict=True))
        yield TableChunk(
            list(names), {c.name: cell for c, cell in zip(columns, cells, strict=True)}
        )


# ---- The tables ----

_STATISTICS = ("count", "min", "max", "mean", "std", "rms", *(f"p{each}" for each in PERCENTS))
_PR_NUMBERS = (
    *("threshold", "precision", "recall"),
    *("true_positives", "false_positives", "true_negatives", "false_negatives"),
)
_TAG_COLUMNS = (
    *(_TAG, Column("kind", "text"), Column("count", "int")),
    *(Column("first_step", "int"), Column("last_step", "int"), Column("description", "text")),
)
_HPARAM_COLUMNS = (Column("name", "text"), Column("value", "value"))
_HEALTH_COLUMNS = (
    *(_STEP, Column("time", "float"), Column("message", "text"), Column("report", "value")),
)
_SESSION_COLUMNS = (
    *(_SESSION, *(Column(name, "int") for name in ("start_step", "first_step", "last_step"))),
    *(Column("first_wall_time", "float"), Column("last_wall_time", "float")),
    *(Column("values", "int"), Column("files", "texts")),
)

# By what `--what` says.
TABLES = {
    "scalars": Table(
        "scalars",
        (_TAG, _STEP, _WALL_TIME, Column("value", "float"), _SESSION),
        partial(_of_frame, "scalars"),
        "scalar",
    ),
    "histograms": Table(
        "histograms",
        (
            *(*_STAMPS, *(Column(name, "float") for name in _STATISTICS)),
            *(Column("edges", "floats"), Column("counts", "floats")),
        ),
        partial(_of_frame, "histograms"),
        "histogram",
    ),
    "texts": Table("texts", (*_STAMPS, Column("text", "text")), _texts, "text"),
    "images": Table(
        "images",
        (*_STAMPS, Column("width", "int"), Column("height", "int"), Column("file", "text")),
        partial(_of_frame, "images"),
        "image",
    ),
    "pr_curves": Table(
        "points of PR curves",
        (*_STAMPS, *(Column(name, "float") for name in _PR_NUMBERS)),
        partial(_of_frame, "pr_curves"),
        "pr_curve",
    ),
    "tags": Table("tags", _TAG_COLUMNS, _tags, ""),
    "hparams": Table("hyper-parameters", _HPARAM_COLUMNS, _hparams, None),
    "health": Table("health reports", _HEALTH_COLUMNS, _health, None),
    "sessions": Table("sessions", _SESSION_COLUMNS, _sessions, None),
}
