"""Precision, recall and F1 from counts, and their rows in a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_scores(
    tp: NDArray[Any], predicted: NDArray[Any], support: NDArray[Any]
) -> NDArray[np.float64]:
    """Returns precision, recall and F1 of each label, NaN where they are 0 / 0.

    Args:
        tp: Examples that have the label and were predicted to have it, shape (labels,).
        predicted: Examples that were predicted to have it.
        support: Examples that have it.

    Returns:
        float64, shape (labels, 3).
    """
    above = np.stack([tp, tp, 2 * tp], axis=1).astype(np.float64)
    below = np.stack([predicted, support, predicted + support], axis=1)
    return _ratio(above, below)


def mean_without_nan(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean of each column, without the NaN in it; NaN if it has nothing else."""
    known = (~np.isnan(scores)).sum(axis=0)
    sums = np.nansum(scores, axis=0)
    return _ratio(sums, known)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    found = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def score_row(name: str, scores: NDArray[np.float64], support: int) -> list[str]:
    """Returns a row of a Markdown table: a name that is escaped, scores, and a count."""
    return [name, *("–" if np.isnan(s) else f"{s:.3f}" for s in scores), f"{support:,}"]
