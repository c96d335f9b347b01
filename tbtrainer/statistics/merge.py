"""Merges the counts of a snapshot into TensorBoard histograms with few buckets."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from tbtrainer.records import Histogram
from tbtrainer.statistics.buckets import BUCKET_EDGES, LINEAR_BUCKET_COUNT
from tbtrainer.statistics.linear_edges import linear_buckets
from tbtrainer.statistics.snapshot import Snapshot
from tbtrainer.statistics.tensor_statistics import TensorStatistics

Bools = NDArray[np.bool_]
Counts = NDArray[np.integer]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Rows, and their edges and counts. Shapes (rows,), (buckets + 1, rows) and (buckets, rows).
_Part = tuple[Integers, Floats, Floats]

# Rows merged at a time. Their arrays of a few hundred float64 per row fit the second cache.
_ROWS = 32
# How much of the bend at an edge is taken for sampling noise, in standard deviations. With a
# quarter of one, single elements of a small tensor still keep buckets of their own.
_NOISE = 0.25
# An atom is a value that many elements share. A filled bucket between two empty ones may hold one.
# TensorBoard draws a histogram in 30 bins, so such a bucket is made narrower than a bin.
_ATOMS_IN_RANGE = 32
_SMALLEST = 5e-324


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
    counts = statistics.buckets.numpy()
    filled = counts != 0
    finer = _rows_of_linear_pass(snapshot)
    others = filled.any(axis=1)
    others[list(finer)] = False
    merged: dict[int, tuple[Floats, Floats]] = {}
    for rows, edges, elements in itertools.chain(
        _linear_parts(snapshot, finer),
        _bucket_parts(snapshot, filled, np.flatnonzero(others)),
    ):
        merged.update(zip(rows.tolist(), _merged(edges, elements, max_buckets), strict=True))
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
    """Returns the rows for which the linear pass is the finer one, and their lines in it.

    The linear pass has to hold every finite element, and to spread them over more buckets.
    """
    statistics = snapshot.statistics
    finite = (statistics.count - statistics.nonfinite).numpy()
    counts, linear = statistics.buckets.numpy(), snapshot.linear.numpy()
    places = snapshot.linear_line_of
    finer: dict[int, int] = {}
    for rows in _in_parts(np.array([row for row in places if finite[row]], np.int64)):
        at = np.array([places[row] for row in rows.tolist()])
        lines = linear[at]
        is_complete = lines.sum(axis=1) == finite[rows]
        is_finer = is_complete & (_squares(lines) <= _squares(counts[rows]))
        finer.update(zip(rows[is_finer].tolist(), at[is_finer].tolist(), strict=True))
    return finer


def _squares(counts: Counts) -> Floats:
    """Returns the sum of the squared counts of each row.

    Of two rows with as many elements, the one with the smaller sum spreads them over more buckets.
    """
    elements = counts.astype(np.float64)
    squares: Floats = np.einsum("ij,ij->i", elements, elements)
    return squares


def _linear_parts(snapshot: Snapshot, finer: dict[int, int]) -> Iterator[_Part]:
    """Yields rows of the linear pass, some at a time, with their edges and counts."""
    statistics, linear, narrow = snapshot.statistics, snapshot.linear.numpy(), snapshot.narrow
    low, high, zeros = (
        field.numpy() for field in (statistics.minimum, statistics.maximum, statistics.zeros)
    )
    lower_end, upper_end = low.copy(), high.copy()
    lower_end[list(narrow.rows)], upper_end[list(narrow.rows)] = narrow.low, narrow.high
    for rows in _in_parts(np.array(list(finer), np.int64)):
        lines = linear[[finer[row] for row in rows.tolist()]]
        edges, counts = linear_buckets(lines, lower_end[rows], upper_end[rows], zeros[rows])
        # The elements outside of the ends of a narrow row are in its first and its last bucket.
        last = edges[LINEAR_BUCKET_COUNT:]
        np.copyto(last, high[rows], where=last >= upper_end[rows])
        np.maximum(edges, low[rows], out=edges)
        np.minimum(edges, high[rows], out=edges)
        edges[0] = low[rows]
        yield rows, edges, counts


def _bucket_parts(snapshot: Snapshot, filled: Bools, chosen: Integers) -> Iterator[_Part]:
    """Yields rows of the fixed buckets, some at a time, with their edges and counts."""
    statistics = snapshot.statistics
    counts = statistics.buckets.numpy()
    for rows in _in_parts(_by_magnitude(chosen, statistics)):
        columns = _columns(filled[rows])
        # A column that was left out is empty, and so is the one before it, which takes its width.
        limits = np.append(BUCKET_EDGES[columns], BUCKET_EDGES[columns[-1] + 1])
        edges = np.maximum(limits[:, None], statistics.minimum.numpy()[rows])
        np.minimum(edges, statistics.maximum.numpy()[rows], out=edges)
        elements = np.empty((len(columns), len(rows)))
        elements[...] = counts[rows].take(columns, axis=1).T
        yield rows, edges, elements


def _by_magnitude(rows: Integers, statistics: TensorStatistics) -> Integers:
    """Sorts rows by their largest magnitude, so that a part of them fills the same buckets."""
    largest = np.maximum(-statistics.minimum.numpy()[rows], statistics.maximum.numpy()[rows])
    return rows[np.argsort(largest, kind="stable")]


def _in_parts(rows: Integers) -> Iterator[Integers]:
    for begin in range(0, len(rows), _ROWS):
        yield rows[begin : begin + _ROWS]


def _columns(filled: Bools) -> Integers:
    """Returns the buckets that matter for some of the rows, ascending.

    A bucket matters if it is filled, or if its neighbour is: the bend at an edge depends on the
    width of the bucket beside it. The second bucket after a filled one is kept too, and takes the
    width of the empty ones after it that are left out.

    Args:
        filled: Whether a bucket holds elements, shape (rows, buckets). At least one does.
    """
    some: Bools = np.logical_or.reduce(filled, axis=0)
    kept = some.copy()
    kept[1:] |= some[:-1]
    kept[2:] |= some[:-2]
    kept[:-1] |= some[1:]
    ends = np.flatnonzero(some)[[0, -1]]
    kept[: ends[0]] = kept[ends[1] + 1 :] = False
    return np.flatnonzero(kept)


def _merged(edges: Floats, counts: Floats, max_buckets: int) -> Iterator[tuple[Floats, Floats]]:
    """Merges adjacent buckets of each row with the least change of the cumulative distribution.

    A bucket stands for a straight piece of the cumulative distribution. Leaving out an edge
    replaces two pieces by one, and the bend is the error that this makes at the edge. The error of
    a piece grows with the square of its length. Edges at equal steps of the cumulative square root
    of the bend therefore give pieces of equal error. This is the equidistribution principle of
    adaptive grids (C. de Boor, Good approximation by splines with variable knots II, 1974). An atom
    has a large bend at both of its edges, so they are kept.

    The rows are the last axis, so that neighbouring buckets are whole lines of memory.

    Args:
        edges: Ascending. float64, shape (buckets + 1, rows). Changed in place.
        counts: float64, shape (buckets, rows).
        max_buckets: The most buckets to keep.

    Yields:
        Right edges and counts of the buckets kept, for each row.
    """
    cumulative = _cumulative(counts)
    _make_atoms_narrow(edges, counts, cumulative)
    bend, noise = _bends(edges, counts, cumulative[-1])
    bends = bend > 0
    few = np.count_nonzero(bends, axis=0) < max_buckets
    bend -= noise
    weight = np.sqrt(np.maximum(bend, 0.0, out=bend), out=bend)
    level = _cumulative(weight)
    step = level[-1:] / (max_buckets - 1)
    level /= np.where(step > 0, step, 1.0)
    level -= 1e-9
    np.floor(level, out=level)
    kept = np.ones(counts.shape, np.bool_)
    # With a single bucket there is no inner edge, and `inner` is empty.
    inner = kept[:-1]
    inner[:1] = level[:1] >= 0
    np.greater(level[1:], level[:-1], out=inner[1:])
    if few.any():
        inner[:, few] = bends[:, few]
    row, at = np.divmod(np.flatnonzero(np.ascontiguousarray(kept.T)), len(kept))
    limits, elements = edges[at + 1, row], cumulative[at, row]
    begins = np.searchsorted(row, np.arange(counts.shape[1] + 1)).tolist()
    # The first bucket of a row does not follow on the last one of the row before it.
    firsts = elements[begins[:-1]]
    elements[1:] -= elements[:-1].copy()
    elements[begins[:-1]] = firsts
    for begin, end in itertools.pairwise(begins):
        yield limits[begin:end], elements[begin:end]


def _cumulative(values: Floats) -> Floats:
    """Returns the sums along the buckets. PyTorch needs a third of NumPy's time for them."""
    sums: Floats = torch.from_numpy(values).cumsum(0).numpy()
    return sums


def _bends(edges: Floats, counts: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Returns the bend at every inner edge, and the part of it that is taken for noise.

    Returns:
        Two arrays, float64, shape (buckets - 1, rows).
    """
    mass, width = counts / total, edges[1:] - edges[:-1]
    left, right, left_width, right_width = mass[:-1], mass[1:], width[:-1], width[1:]
    bend = left * right_width
    product = right * left_width
    np.abs(np.subtract(bend, product, out=bend), out=bend)
    both = np.add(left_width, right_width, out=product)
    # Where both buckets have no width, the bend is 0.
    bend /= np.maximum(both, _SMALLEST, out=both)
    noise = np.add(left, right, out=both)
    noise /= total
    np.sqrt(noise, out=noise)
    noise *= _NOISE
    return bend, noise


def _make_atoms_narrow(edges: Floats, counts: Floats, cumulative: Floats) -> None:
    """Moves edges, so that no filled bucket between two empty ones is wider than a drawn bin.

    Such a bucket may be an atom. A value with few binary digits lies on the edge nearer to zero, so
    this edge is kept and the other one is moved. The first and last filled bucket of a row reach
    exactly to its minimum and maximum, so they stay as they are.
    """
    filled = counts > 0
    alone = filled.copy()
    alone[1:] &= ~filled[:-1]
    alone[:-1] &= ~filled[1:]
    at, row = np.divmod(np.flatnonzero(alone), alone.shape[1])
    inner = (cumulative[at, row] > counts[at, row]) & (cumulative[at, row] < cumulative[-1, row])
    at, row = at[inner], row[inner]
    low, high = edges[at, row], edges[at + 1, row]
    widest = edges[-1, row] / _ATOMS_IN_RANGE - edges[0, row] / _ATOMS_IN_RANGE
    wide, positive = high - low > widest, low >= 0
    up, down = wide & positive, wide & ~positive
    edges[at[up] + 1, row[up]] = (low + widest)[up]
    edges[at[down], row[down]] = (high - widest)[down]
