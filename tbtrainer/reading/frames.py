"""The values of a run as DataFrames of pandas."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tbtrainer.reading.records import ScalarChunk, TableChunk
from tbtrainer.reading.tables import Columns

if TYPE_CHECKING:
    import pandas

# The columns of scalars, in their order: attributes of `ScalarChunk`.
SCALAR_DTYPES = {"tag": "i4", "step": "i8", "wall_time": "f8", "value": "f8", "session": "i4"}


def scalars(chunks: Iterable[ScalarChunk], names: Sequence[str], count: int) -> "pandas.DataFrame":
    """Returns the frame of scalars; see `Run.scalars`.

    Args:
        chunks: The scalars.
        names: The tags of the run.
        count: How many scalars there are, so that they are copied only once.

    Raises:
        ImportError: pandas is not installed.
    """
    pandas = _pandas()
    columns = {name: np.empty(count, dtype) for name, dtype in SCALAR_DTYPES.items()}
    done = 0
    for chunk in chunks:
        # There are fewer or more if a training rewrote its files meanwhile.
        room = min(len(chunk), count - done)
        for name, column in columns.items():
            column[done : done + room] = getattr(chunk, name)[:room]
        done += room
    return _frame(pandas, names, {name: column[:done] for name, column in columns.items()})


def joined(
    chunks: Iterable[TableChunk], names: Sequence[str], empty: Columns
) -> "pandas.DataFrame":
    """Returns the frame of some chunks.

    Args:
        chunks: The rows.
        names: The tags of the run.
        empty: The columns of a table without rows.

    Raises:
        ImportError: pandas is not installed.
    """
    pandas = _pandas()
    pieces = [empty, *(chunk.columns for chunk in chunks)]
    columns: Columns = {}
    for name, first in empty.items():
        each = [piece[name] for piece in pieces]
        is_list = isinstance(first, list)
        columns[name] = (
            [one for piece in each for one in piece] if is_list else np.concatenate(each)
        )
    return _frame(pandas, names, columns)


def _frame(pandas: Any, names: Sequence[str], columns: Columns) -> "pandas.DataFrame":
    """Returns a frame whose tags are categories: one copy of each name that is used."""
    used = np.flatnonzero(np.bincount(columns["tag"], minlength=len(names)))
    # `remove_unused_categories` sorts all rows, which needs as much memory as the frame.
    codes = np.zeros(len(names), np.int32)
    codes[used] = np.arange(len(used))
    columns["tag"] = codes[columns["tag"]]
    tags = pandas.Categorical.from_codes(
        columns["tag"], [names[number] for number in used.tolist()]
    )
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
            'with its extra "pandas". `table_chunks` and `iter_records` work without it.'
        ) from error
    return pandas
