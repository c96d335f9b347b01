"""The values of a run as DataFrames of pandas."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas


def pandas_module() -> Any:
    """Imports pandas.

    Raises:
        ImportError: It is not installed. The message names the extra.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "The frames of a run need pandas, which is not installed: install tbtrainer with the "
            "extra `pandas`, as in `pip install 'tbtrainer[pandas]'`. `iter_records` and "
            "`scalar_chunks` work without it."
        ) from error
    return pandas


def scalars(run: Any) -> "pandas.DataFrame":
    """Returns all scalars of a run; see `Run.scalars`."""
    pandas = pandas_module()
    chunks = list(run.scalar_chunks())
    names = chunks[0].names if chunks else []

    def column(name: str, dtype: str) -> Any:
        parts = [getattr(chunk, name) for chunk in chunks]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    return pandas.DataFrame(
        {
            "tag": pandas.Categorical.from_codes(column("tag", "i4"), names).remove_unused_categories(),
            "step": column("step", "i8"),
            "wall_time": column("wall_time", "f8"),
            "value": column("value", "f8"),
            "session": column("session", "i4"),
        }
    )
