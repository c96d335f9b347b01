"""The values of a run as DataFrames of pandas."""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading.histogram_table import histogram_columns
from tbtrainer.reading.records import Rows, ScalarChunk
from tbtrainer.reading.run_files import Folder
from tbtrainer.reading.stored_image import StoredImage
from tbtrainer.reading.tag_table import TagTable
from tbtrainer.reading.tensors import UnreadableValue
from tbtrainer.reading.values import decoded

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)

_SCALAR_DTYPES = {"tag": "i4", "step": "i8", "wall_time": "f8", "value": "f8", "session": "i4"}
_PR_COLUMNS = {
    "threshold": "thresholds",
    "precision": "precision",
    "recall": "recall",
    "true_positives": "true_positives",
    "false_positives": "false_positives",
    "true_negatives": "true_negatives",
    "false_negatives": "false_negatives",
}
_FIELDS = 128


def scalars(chunks: Iterable[ScalarChunk], names: list[str], count: int) -> "pandas.DataFrame":
    """Returns the frame of scalars; see `Run.scalars`.

    Args:
        chunks: The scalars.
        names: The tags of the run.
        count: How many scalars there are, so that they are copied only once.
    """
    pandas = _pandas()
    columns = {name: np.empty(count, dtype) for name, dtype in _SCALAR_DTYPES.items()}
    done = 0
    for chunk in chunks:
        # There are fewer or more if a training rewrote its files meanwhile.
        room = min(len(chunk), count - done)
        for name, column in columns.items():
            column[done : done + room] = getattr(chunk, name)[:room]
        done += room
    return _frame(pandas, names, {name: column[:done] for name, column in columns.items()})


def histograms(parts: Iterable[Rows], table: TagTable) -> "pandas.DataFrame":
    """Returns the frame of histograms; see `Run.histograms`."""
    pandas = _pandas()
    is_read, columns = histogram_columns([])
    pieces = [{**_stamps_without_values(), **columns}]
    for part in parts:
        rows, stamps = _of_kind(part, table, "histogram")
        is_read, columns = histogram_columns([part.batch.value_bytes(row) for row in rows])
        _log_unread(int((~is_read).sum()), "histogram")
        stamps = {name: column[is_read] for name, column in stamps.items()}
        pieces.append({**stamps, **columns})
    return _frame(pandas, table.names, _joined(pieces))


def texts(parts: Iterable[Rows], table: TagTable) -> "pandas.DataFrame":
    """Returns the frame of texts; see `Run.texts`."""
    pandas = _pandas()
    pieces = [{**_stamps_without_values(), "text": []}]
    for stamps, values, _ in _decoded(parts, table, "text"):
        pieces.append({**stamps, "text": values})
    return _frame(pandas, table.names, _joined(pieces))


def images(parts: Iterable[Rows], table: TagTable, folder: Folder) -> "pandas.DataFrame":
    """Returns the frame of pictures; see `Run.images`."""
    pandas = _pandas()
    none = np.zeros(0, "i8")
    pieces = [{**_stamps_without_values(), "width": none, "height": none, "image": []}]
    for stamps, values, places in _decoded(parts, table, "image"):
        pictures = [len(value.encoded) for value in values]
        stored = [
            StoredImage(*place, number, folder)
            for place, count in zip(places, pictures, strict=True)
            for number in range(count)
        ]
        sizes = np.array([(value.width, value.height) for value in values], "i8").reshape(-1, 2)
        columns = {**stamps, "width": sizes[:, 0], "height": sizes[:, 1]}
        pieces.append({**_repeated(columns, pictures), "image": stored})
    return _frame(pandas, table.names, _joined(pieces))


def pr_curves(parts: Iterable[Rows], table: TagTable) -> "pandas.DataFrame":
    """Returns the frame of PR curves; see `Run.pr_curves`."""
    pandas = _pandas()
    pieces = [{**_stamps_without_values(), **{name: np.zeros(0) for name in _PR_COLUMNS}}]
    for stamps, values, _ in _decoded(parts, table, "pr_curve"):
        columns = {
            name: np.concatenate([np.zeros(0), *(getattr(curve, field) for curve in values)])
            for name, field in _PR_COLUMNS.items()
        }
        thresholds = [len(curve.thresholds) for curve in values]
        pieces.append({**_repeated(stamps, thresholds), **columns})
    return _frame(pandas, table.names, _joined(pieces))


# ---- The values of one kind ----


def _of_kind(part: Rows, table: TagTable, kind: str) -> tuple[list[int], dict[str, NDArray[Any]]]:
    """Returns the rows of the values of a kind, and the columns that all frames have."""
    batch = part.batch
    key = part.tag.astype(np.int64) * _FIELDS + batch.kind[part.rows]
    chosen = [one for one in np.unique(key).tolist() if table.kind(*divmod(one, _FIELDS)) == kind]
    is_chosen = np.isin(key, chosen)
    rows = part.rows[is_chosen]
    stamps: dict[str, NDArray[Any]] = {
        "tag": part.tag[is_chosen],
        "step": batch.step[rows],
        "wall_time": batch.wall_time[rows],
        "session": np.full(len(rows), part.session, np.int32),
    }
    return rows.tolist(), stamps


def _decoded(
    parts: Iterable[Rows], table: TagTable, kind: str
) -> Iterator[tuple[dict[str, NDArray[Any]], list[Any], list[tuple[str, int, int]]]]:
    """Yields the common columns and the values of a kind, and where each is.

    The place is the name of the file, and where the value begins in it and how long it is.
    """
    for part in parts:
        rows, stamps = _of_kind(part, table, kind)
        values, kept, places = [], [], []
        for number, row in enumerate(rows):
            try:
                values.append(decoded(kind, part.batch.value_bytes(row)))
            except UnreadableValue:
                continue
            kept.append(number)
            offset = part.batch.position + int(part.batch.offset[row])
            places.append((part.file, offset, int(part.batch.size[row])))
        _log_unread(len(rows) - len(values), kind)
        yield {name: column[kept] for name, column in stamps.items()}, values, places


def _stamps_without_values() -> dict[str, Any]:
    dtypes = {name: dtype for name, dtype in _SCALAR_DTYPES.items() if name != "value"}
    return {name: np.zeros(0, dtype) for name, dtype in dtypes.items()}


def _repeated(columns: dict[str, NDArray[Any]], counts: list[int]) -> dict[str, NDArray[Any]]:
    """Repeats each row as often as `counts` says."""
    return {name: np.repeat(column, counts) for name, column in columns.items()}


def _log_unread(count: int, kind: str) -> None:
    if count:
        logger.warning("%d values of kind %s cannot be read, and are left out.", count, kind)


# ---- Frames ----


def _joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns columns made of pieces, each an array or a list."""
    joined: dict[str, Any] = {}
    for name, first in pieces[0].items():
        each = [piece[name] for piece in pieces]
        is_list = isinstance(first, list)
        joined[name] = [one for piece in each for one in piece] if is_list else np.concatenate(each)
    return joined


def _frame(pandas: Any, names: list[str], columns: dict[str, Any]) -> "pandas.DataFrame":
    """Returns a frame whose tags are categories: one copy of each name that is used."""
    used = np.flatnonzero(np.bincount(columns["tag"], minlength=len(names)))
    # `remove_unused_categories` sorts all rows, which needs as much memory as the frame.
    codes = np.zeros(len(names), np.int32)
    codes[used] = np.arange(len(used))
    columns["tag"] = codes[columns["tag"]]
    tags = pandas.Categorical.from_codes(columns["tag"], [names[number] for number in used])
    return pandas.DataFrame({**columns, "tag": tags}, copy=False)


def _pandas() -> Any:
    """Imports pandas.

    Raises:
        ImportError: It is not installed. The message names the extra.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "The frames of a run need pandas, which is not installed. Install it, or tbtrainer "
            'with its extra "pandas". `iter_records` and `scalar_chunks` work without it.'
        ) from error
    return pandas
