"""Histograms of summaries: moments and quantiles."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading.tensors import UnreadableValue


@dataclass(frozen=True)
class HistogramValue:
    """The distribution of some numbers, as buckets.

    Attributes:
        count: How many numbers there are.
        minimum: The smallest; NaN if there is none.
        maximum: The largest; NaN if there is none.
        sum: Their sum. If the file does not have it, the middles of the buckets stand for the
            numbers, as in histograms of TensorFlow 2.
        sum_of_squares: The sum of their squares, likewise.
        edges: Edges of the buckets, in ascending order. float64, shape (buckets + 1,).
        counts: Numbers per bucket. float64, shape (buckets,).
    """

    count: float
    minimum: float
    maximum: float
    sum: float
    sum_of_squares: float
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean; NaN without numbers."""
        return self.sum / self.count if self.count else math.nan

    @property
    def rms(self) -> float:
        """The root of the mean square; NaN without numbers."""
        return math.sqrt(max(self.sum_of_squares / self.count, 0.0)) if self.count else math.nan

    @property
    def std(self) -> float:
        """The standard deviation; NaN without numbers."""
        if not self.count:
            return math.nan
        return math.sqrt(max(self.sum_of_squares / self.count - self.mean**2, 0.0))

    def quantile(self, share: float) -> float:
        """Returns the number below which a share of the numbers is, linear within a bucket.

        Args:
            share: From 0 to 1; 0.5 is the median.
        """
        return float(quantiles(self.edges, self.counts, np.array([share]))[0])


def quantiles(
    edges: NDArray[np.float64], counts: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns quantiles of a histogram, linear within a bucket; NaN if it is empty.

    Args:
        edges: Shape (buckets + 1,).
        counts: Shape (buckets,).
        shares: From 0 to 1. Shape (quantiles,).
    """
    total = counts.sum()
    if not len(counts) or not total > 0:
        return np.full(len(shares), math.nan)
    cumulative = np.cumsum(counts)
    wanted = shares * cumulative[-1]
    bucket = np.minimum(np.searchsorted(cumulative, wanted, side="left"), len(counts) - 1)
    # An empty bucket holds no quantile; that of share 0 is at the left of the first full one.
    full = np.flatnonzero(counts > 0)
    bucket = full[np.minimum(np.searchsorted(full, bucket), len(full) - 1)]
    before = cumulative[bucket] - counts[bucket]
    inside = np.clip((wanted - before) / counts[bucket], 0.0, 1.0)
    return edges[bucket] + inside * (edges[bucket + 1] - edges[bucket])


def from_message(histogram: "object") -> HistogramValue:
    """Returns the histogram of a `HistogramProto`.

    The proto has the right edges only: the smallest and the largest number are the outer edges.

    Raises:
        UnreadableValue: There are not as many edges as buckets.
    """
    limits = np.array(histogram.bucket_limit, dtype=np.float64)  # type: ignore[attr-defined]
    counts = np.array(histogram.bucket, dtype=np.float64)  # type: ignore[attr-defined]
    if len(limits) != len(counts):
        raise UnreadableValue(f"a histogram has {len(limits)} edges and {len(counts)} buckets")
    minimum, maximum = histogram.min, histogram.max  # type: ignore[attr-defined]
    count = histogram.num  # type: ignore[attr-defined]
    edges = np.concatenate([[minimum], limits]) if len(limits) else np.zeros(1)
    edges[1:] = np.clip(edges[1:], minimum, maximum) if minimum <= maximum else edges[1:]
    return HistogramValue(
        count,
        minimum if count else math.nan,
        maximum if count else math.nan,
        histogram.sum,  # type: ignore[attr-defined]
        histogram.sum_squares,  # type: ignore[attr-defined]
        edges,
        counts,
    )


def from_tensor(rows: NDArray[np.float64]) -> HistogramValue:
    """Returns the histogram of a tensor of shape (buckets, 3): left edge, right edge, count.

    Raises:
        UnreadableValue: The tensor has another shape.
    """
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise UnreadableValue(f"a histogram has the shape {rows.shape}")
    left, right, counts = rows.astype(np.float64).T
    full = counts > 0
    edges = np.concatenate([left[:1], right]) if len(left) else np.zeros(1)
    count = float(counts.sum())
    middle = (left + right) / 2
    return HistogramValue(
        count,
        float(left[full].min()) if count else math.nan,
        float(right[full].max()) if count else math.nan,
        float((middle * counts).sum()),
        float((middle**2 * counts).sum()),
        edges,
        counts,
    )
