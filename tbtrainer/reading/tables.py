"""The values of a run as tables: the columns of each frame, chunk by chunk, without pandas."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading.batch import ROW_DTYPES, Batch
from tbtrainer.reading.histogram_table import histogram_columns
from tbtrainer.reading.run_files import Folder
from tbtrainer.reading.stored_image import StoredImage
from tbtrainer.reading.tag_table import TagTable
from tbtrainer.reading.tensors import UnreadableValue
from tbtrainer.reading.values import decoded
from tbtrainer.reading.visible import VisibleRows

logger = logging.getLogger(__name__)

# The tables, which are also the frames of a run, and the kind of values in each.
KIND_OF_TABLE = {
    "scalars": "scalar",
    "histograms": "histogram",
    "texts": "text",
    "images": "image",
    "pr_curves": "pr_curve",
}
# By column: the attribute of `PrCurveValue`.
_PR_COLUMNS = {
    "threshold": "thresholds",
    "precision": "precision",
    "recall": "recall",
    "true_positives": "true_positives",
    "false_positives": "false_positives",
    "true_negatives": "true_negatives",
    "false_negatives": "false_negatives",
}

Columns = dict[str, Any]


def table_columns(name: str, part: VisibleRows, table: TagTable, folder: Folder) -> Columns:
    """Returns the columns of a table for some rows. Values that cannot be read are left out.

    Args:
        name: A key of `KIND_OF_TABLE`, but for "scalars".
        part: The rows. Those of another kind are left out.
        table: The tags of the run.
        folder: The run directory, from which pictures are read later.

    Returns:
        The columns by name, in the order of the frame; `tag` has numbers of `table`.
    """
    return _BUILDERS[name](part, table, folder)


def without_rows(name: str, table: TagTable, folder: Folder) -> Columns:
    """Returns the columns of a table that has no rows, with their dtypes."""
    columns = [np.zeros(0, dtype) for dtype in ROW_DTYPES.values()]
    others: dict[str, Any] = {"data": b"", "position": 0, "events": 0, "first_wall_time": 0.0}
    batch = Batch.of_columns(columns, tags=[], metadata=[], **others)
    nothing = VisibleRows(batch, np.zeros(0, np.int64), np.zeros(0, np.int32), 0, "")
    return table_columns(name, nothing, table, folder)


def _histograms(part: VisibleRows, table: TagTable, folder: Folder) -> Columns:
    rows, stamps = _of_kind(part, table, "histogram")
    is_read, columns = histogram_columns([part.batch.value_bytes(row) for row in rows])
    _log_unread(int((~is_read).sum()), "histogram")
    return {**{name: column[is_read] for name, column in stamps.items()}, **columns}


def _texts(part: VisibleRows, table: TagTable, folder: Folder) -> Columns:
    stamps, values, _ = _decoded(part, table, "text")
    return {**stamps, "text": values}


def _images(part: VisibleRows, table: TagTable, folder: Folder) -> Columns:
    stamps, values, rows = _decoded(part, table, "image")
    batch = part.batch
    stored = [
        StoredImage(
            part.file,
            batch.position + int(batch.offset[row]),
            int(batch.size[row]),
            number,
            folder,
        )
        for row, value in zip(rows, values, strict=True)
        for number in range(len(value.encoded))
    ]
    sizes = np.array([(value.width, value.height) for value in values], "i8").reshape(-1, 2)
    columns = {**stamps, "width": sizes[:, 0], "height": sizes[:, 1]}
    return {**_repeated(columns, [len(value.encoded) for value in values]), "image": stored}


def _pr_curves(part: VisibleRows, table: TagTable, folder: Folder) -> Columns:
    stamps, values, _ = _decoded(part, table, "pr_curve")
    columns = {
        name: np.concatenate([np.zeros(0), *(getattr(curve, field) for curve in values)])
        for name, field in _PR_COLUMNS.items()
    }
    return {**_repeated(stamps, [len(curve.thresholds) for curve in values]), **columns}


_BUILDERS: dict[str, Callable[[VisibleRows, TagTable, Folder], Columns]] = {
    "histograms": _histograms,
    "texts": _texts,
    "images": _images,
    "pr_curves": _pr_curves,
}


# ---- The values of one kind ----


def _of_kind(
    part: VisibleRows, table: TagTable, kind: str
) -> tuple[list[int], dict[str, NDArray[Any]]]:
    """Returns the rows of a kind, and the columns that all tables begin with."""
    batch = part.batch
    chosen = table.are_of_kind(part.tag, batch.field[part.rows], kind)
    rows = part.rows[chosen]
    stamps: dict[str, NDArray[Any]] = {
        "tag": part.tag[chosen],
        "step": batch.step[rows],
        "wall_time": batch.wall_time[rows],
        "session": np.full(len(rows), part.session, np.int32),
    }
    return rows.tolist(), stamps


def _decoded(
    part: VisibleRows, table: TagTable, kind: str
) -> tuple[dict[str, NDArray[Any]], list[Any], list[int]]:
    """Returns the first columns, the values of a kind that can be read, and their rows."""
    rows, stamps = _of_kind(part, table, kind)
    values, places = [], []
    for place, row in enumerate(rows):
        try:
            values.append(decoded(kind, part.batch.value_bytes(row)))
        except UnreadableValue:
            continue
        places.append(place)
    _log_unread(len(rows) - len(values), kind)
    stamps = {name: column[places] for name, column in stamps.items()}
    return stamps, values, [rows[place] for place in places]


def _repeated(columns: dict[str, NDArray[Any]], counts: list[int]) -> dict[str, NDArray[Any]]:
    """Repeats each row as often as `counts` says."""
    return {name: np.repeat(column, np.array(counts, np.int64)) for name, column in columns.items()}


def _log_unread(count: int, kind: str) -> None:
    if count:
        logger.warning("%d values of kind %s cannot be read, and are left out.", count, kind)
