"""Edges and counts of the linear pass, with the zeros in a bucket of their own."""

import numpy as np
from numpy.typing import NDArray

from tbtrainer.statistics.buckets import LINEAR_BUCKET_COUNT

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The zeros need a bucket, and cut the bucket that they were in into two.
_ADDED = 2
# An edge this much nearer to zero than a bucket is wide, is zero but for rounding.
_ZERO_EDGE = 1e-6


def linear_buckets(
    counts: NDArray[np.integer], low: Floats, high: Floats, zeros: Integers
) -> tuple[Floats, Floats]:
    """Returns edges and counts of the linear pass, with the zeros in a bucket of their own.

    There are two buckets more than in the pass. One holds the zeros. The other is needed because
    the zeros cut the bucket that they were in into two. In a row without zeros both are empty and
    without width, at the end.

    Args:
        counts: Elements per bucket. Shape (rows, LINEAR_BUCKET_COUNT).
        low: Lower end of each row. float64, shape (rows,).
        high: Upper end of each row. float64, shape (rows,).
        zeros: Elements equal to zero. int64, shape (rows,).

    Returns:
        Edges, float64, shape (LINEAR_BUCKET_COUNT + 3, rows), and counts, float64, shape
        (LINEAR_BUCKET_COUNT + 2, rows).
    """
    # Halves are used because the difference of two float64 may overflow.
    fraction = np.arange(LINEAR_BUCKET_COUNT + 1) / LINEAR_BUCKET_COUNT
    half = fraction[:, None] * (high / 2 - low / 2)
    edges = np.empty((LINEAR_BUCKET_COUNT + 1 + _ADDED, len(counts)))
    inner = edges[:-_ADDED]
    np.add(low, half, out=inner)
    inner += half
    np.minimum(inner, high, out=inner)
    edges[-_ADDED - 1 :] = high
    elements = np.zeros((LINEAR_BUCKET_COUNT + _ADDED, len(counts)))
    elements[:-_ADDED] = counts.T
    rows = np.flatnonzero((zeros > 0) & (low <= 0) & (high >= 0) & (low < high))
    if len(rows):
        spread = _with_zeros_apart(edges[:, rows].T, elements[:, rows].T, zeros[rows])
        edges[:, rows], elements[:, rows] = (changed.T for changed in spread)
    return edges, elements


def _with_zeros_apart(edges: Floats, counts: Floats, zeros: Integers) -> tuple[Floats, Floats]:
    """Inserts a bucket without width at 0 into each row of the linear pass.

    The bucket with the zeros becomes up to three: what is below zero, the zeros, what is above.
    """
    row = np.arange(len(edges))
    width = edges[:, -1] / LINEAR_BUCKET_COUNT - edges[:, 0] / LINEAR_BUCKET_COUNT
    inner = edges[:, 1:LINEAR_BUCKET_COUNT]
    inner[np.abs(inner) < _ZERO_EDGE * width[:, None]] = 0.0
    at = np.minimum((edges <= 0).sum(axis=1) - 1, LINEAR_BUCKET_COUNT - 1)
    # Where 0 is an edge, rounding may have put the zeros into the bucket below it.
    at -= (edges[row, at] == 0) & (counts[row, at] < zeros)
    others = np.maximum(counts[row, at] - zeros, 0.0)
    share = np.minimum(-edges[row, at] / width, 1.0)
    below = np.round(others * share)
    above = others - below
    # A part without width is left out: it would hide the edges of the bucket of the zeros.
    has_below = (share > 0).astype(np.int64)
    has_above = edges[row, at + 1] > 0
    zero_at, added = at + has_below, has_below + has_above
    # Buckets after the inserted ones move up. The ones that leave at the end are empty.
    number = np.arange(edges.shape[1])
    source = number - np.where(number > (at + added)[:, None], added[:, None], 0)
    spread_edges = np.take_along_axis(edges, source, axis=1)
    spread_counts = np.take_along_axis(counts, source[:, :-1], axis=1)
    spread_counts[row, at] = below
    spread_counts[row, zero_at] = zeros
    spread_edges[row, at + 1] = spread_edges[row, zero_at + 1] = 0.0
    cut, last = row[has_above], (zero_at + 1)[has_above]
    spread_counts[cut, last] = above[has_above]
    spread_edges[cut, last + 1] = edges[cut, at[has_above] + 1]
    return spread_edges, spread_counts
