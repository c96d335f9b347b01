"""The merging of version 0.1.0, row by row: the reference of `tbtrainer.statistics.merge`.

One thing differs from it: `prepend` is -1 and not 0. With 0 the first bend of a row was left out or
not depending on which buckets the rows beside it filled.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tbtrainer.records import Histogram
from tbtrainer.statistics.buckets import BUCKET_EDGES, LINEAR_BUCKET_COUNT
from tbtrainer.statistics.snapshot import Snapshot

Floats = NDArray[np.float64]

_ROWS = 128
# How much of the bend at an edge is taken for sampling noise, in standard deviations. With a
# quarter of one, single elements of a small tensor still keep buckets of their own.
_NOISE = 0.25
# An atom is a value that many elements share. A filled bucket between two empty ones may hold one.
# TensorBoard draws a histogram in 30 bins, so such a bucket is made narrower than a bin.
_ATOMS_IN_RANGE = 32


# Where a width overflows float64, more buckets are merged than necessary. NumPy need not warn.
@np.errstate(over="ignore", invalid="ignore")
def histograms(snapshot: Snapshot, max_buckets: int) -> list[Histogram | None]:
    """Turns a snapshot of whole tensors into histograms.

    Args:
        snapshot: A snapshot in main memory, reduced over all ranks.
        max_buckets: The most buckets of a histogram.

    Returns:
        One histogram per row, `None` for a row without a finite element.
    """
    statistics = snapshot.statistics
    low, high = statistics.minimum.numpy(), statistics.maximum.numpy()
    zeros = statistics.zeros.numpy()
    counts, linear = statistics.buckets.numpy(), snapshot.linear.numpy()
    filled = np.flatnonzero(counts.any(axis=1)).tolist()
    finer = _rows_of_linear_pass(snapshot)
    merged: dict[int, tuple[Floats, Floats]] = {}
    for rows in _in_parts([row for row in filled if row in finer]):
        edges, elements = _linear_buckets(
            linear[[finer[row] for row in rows]], low[rows], high[rows], zeros[rows]
        )
        merged.update(zip(rows, _merged(edges, elements, max_buckets), strict=True))
    for rows in _in_parts([row for row in filled if row not in finer]):
        # Only the columns that some row fills. They are usually a third of all.
        columns = np.flatnonzero(counts[rows].any(axis=0))
        first, last = columns[0], columns[-1] + 1
        edges = np.clip(BUCKET_EDGES[None, first : last + 1], low[rows, None], high[rows, None])
        elements = counts[rows, first:last].astype(np.float64)
        merged.update(zip(rows, _merged(edges, elements, max_buckets), strict=True))
    finite = statistics.count - statistics.nonfinite
    numbers = zip(
        statistics.minimum.tolist(),
        statistics.maximum.tolist(),
        finite.tolist(),
        statistics.sum.tolist(),
        statistics.sum_of_squares.tolist(),
        strict=True,
    )
    return [
        Histogram(*fields, *merged[row]) if row in merged else None
        for row, fields in enumerate(numbers)
    ]


def _rows_of_linear_pass(snapshot: Snapshot) -> dict[int, int]:
    """Returns the rows for which the linear pass is the finer one, and their rows in it.

    The linear pass has to hold every finite element, and to spread them over more buckets.
    """
    statistics = snapshot.statistics
    finite = (statistics.count - statistics.nonfinite).tolist()
    counts, linear = statistics.buckets.numpy(), snapshot.linear.numpy()
    return {
        row: linear_row
        for row, linear_row in snapshot.rows.linear_row_of.items()
        if linear[linear_row].sum() == finite[row]
        and _spread(linear[linear_row]) >= _spread(counts[row])
    }


def _spread(counts: NDArray[np.int64]) -> float:
    """Returns the effective number of filled buckets: n if n buckets are filled evenly."""
    total = counts.sum()
    return float(total) ** 2 / float(np.square(counts.astype(np.float64)).sum()) if total else 0.0


def _in_parts(rows: list[int]) -> Iterator[list[int]]:
    for begin in range(0, len(rows), _ROWS):
        yield rows[begin : begin + _ROWS]


def _linear_buckets(
    counts: NDArray[np.int64], low: Floats, high: Floats, zeros: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Returns edges and counts of the linear pass, with the zeros in a bucket of their own.

    There are two buckets more than in the pass. One holds the zeros. The other is needed because
    the zeros cut the bucket that they were in into two. In a row without zeros both are empty and
    without width, at the end.

    Returns:
        Edges, float64, shape (rows, LINEAR_BUCKET_COUNT + 3), and counts, float64, shape
        (rows, LINEAR_BUCKET_COUNT + 2).
    """
    # Halves are used because the difference of two float64 may overflow.
    half = (high / 2 - low / 2)[:, None] * (
        np.arange(LINEAR_BUCKET_COUNT + 1) / LINEAR_BUCKET_COUNT
    )
    edges = np.empty((len(counts), LINEAR_BUCKET_COUNT + 3))
    edges[:, :-2] = np.minimum(low[:, None] + half + half, high[:, None])
    edges[:, -3:] = high[:, None]
    elements = np.zeros((len(counts), LINEAR_BUCKET_COUNT + 2))
    elements[:, :-2] = counts
    for row in np.flatnonzero((zeros > 0) & (low <= 0) & (high >= 0) & (low < high)):
        _set_zeros_apart(edges[row], elements[row], float(zeros[row]))
    return edges, elements


def _set_zeros_apart(edges: Floats, counts: Floats, zeros: float) -> None:
    """Inserts a bucket without width at 0 into one row of the linear pass, in place."""
    width = edges[-1] / LINEAR_BUCKET_COUNT - edges[0] / LINEAR_BUCKET_COUNT
    inner = edges[1:LINEAR_BUCKET_COUNT]
    inner[np.abs(inner) < 1e-6 * width] = 0.0
    at = min(int(np.searchsorted(edges, 0.0, "right")) - 1, LINEAR_BUCKET_COUNT - 1)
    if edges[at] == 0 and counts[at] < zeros:
        # 0 is an edge, and rounding put the zeros into the bucket below it.
        at -= 1
    others = max(counts[at] - zeros, 0.0)
    share = min(-edges[at] / width, 1.0)
    below = np.round(others * share)
    # A part without width is left out: it would hide the edges of the bucket of the zeros.
    halves = [(below, 0.0)] if share > 0 else []
    halves.append((zeros, 0.0))
    if edges[at + 1] > 0:
        halves.append((others - below, edges[at + 1]))
    after, spare = at + len(halves), 3 - len(halves)
    counts[after:] = np.append(counts[at + 1 : -2], np.zeros(spare))
    edges[after + 1 :] = np.append(edges[at + 2 : -2], np.full(spare, edges[-1]))
    counts[at:after] = [count for count, _ in halves]
    edges[at + 1 : after + 1] = [limit for _, limit in halves]


def _merged(edges: Floats, counts: Floats, max_buckets: int) -> Iterator[tuple[Floats, Floats]]:
    """Merges adjacent buckets of each row with the least change of the cumulative distribution.

    A bucket stands for a straight piece of the cumulative distribution. Leaving out an edge
    replaces two pieces by one, and `bend` is the error that this makes at the edge. The error of a
    piece grows with the square of its length. Edges at equal steps of the cumulative square root
    of the bend therefore give pieces of equal error. This is the equidistribution principle of
    adaptive grids (C. de Boor, Good approximation by splines with variable knots II, 1974). An atom
    has a large bend at both of its edges, so they are kept.

    Args:
        edges: Ascending. float64, shape (rows, buckets + 1).
        counts: float64, shape (rows, buckets).
        max_buckets: The most buckets to keep.

    Yields:
        Right edges and counts of the buckets kept, for each row.
    """
    edges = _with_narrow_atoms(edges, counts)
    total = counts.sum(axis=1, keepdims=True)
    mass, width = counts / total, np.diff(edges, axis=1)
    left, right, left_width, right_width = mass[:, :-1], mass[:, 1:], width[:, :-1], width[:, 1:]
    both = left_width + right_width
    bend = np.abs(left * right_width - right * left_width) / np.where(both > 0, both, 1.0)
    noise = _NOISE * np.sqrt((left + right) / total)
    weight = np.sqrt(np.maximum(bend - noise, 0.0))
    bends = bend > 0
    few = bends.sum(axis=1, keepdims=True) < max_buckets
    reached = np.cumsum(weight, axis=1)
    step = reached[:, -1:] / (max_buckets - 1) if reached.shape[1] else reached
    level = np.floor(reached / np.where(step > 0, step, 1.0) - 1e-9)
    crossed = np.diff(level, axis=1, prepend=-1.0) > 0
    kept = np.where(few, bends, crossed)
    cumulative = np.cumsum(counts, axis=1)
    for row in range(len(counts)):
        at = np.append(np.flatnonzero(kept[row]), counts.shape[1] - 1)
        yield edges[row, at + 1], np.diff(cumulative[row, at], prepend=0.0)


def _with_narrow_atoms(edges: Floats, counts: Floats) -> Floats:
    """Returns edges with which no filled bucket between two empty ones is wider than a drawn bin.

    Such a bucket may be an atom. A value with few binary digits lies on the edge nearer to zero, so
    this edge is kept and the other one is moved.
    """
    alone = counts > 0
    filled = alone.copy()
    alone[:, 1:] &= ~filled[:, :-1]
    alone[:, :-1] &= ~filled[:, 1:]
    widest = edges[:, -1:] / _ATOMS_IN_RANGE - edges[:, :1] / _ATOMS_IN_RANGE
    alone &= np.diff(edges, axis=1) > widest
    # The first and last filled bucket of a row reach exactly to its minimum and maximum. They are
    # found per row, so that a row does not depend on the columns that other rows fill.
    row = np.arange(len(counts))
    alone[row, filled.argmax(axis=1)] = False
    alone[row, -1 - filled[:, ::-1].argmax(axis=1)] = False
    positive = edges[:, :-1] >= 0
    narrow = edges.copy()
    narrow[:, 1:][alone & positive] = (edges[:, :-1] + widest)[alone & positive]
    narrow[:, :-1][alone & ~positive] = (edges[:, 1:] - widest)[alone & ~positive]
    return narrow
