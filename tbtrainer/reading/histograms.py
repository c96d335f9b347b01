"""Histograms of summaries: moments and quantiles."""

import math
from dataclasses import dataclass
from typing import Any

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
        return self._moment("mean")

    @property
    def rms(self) -> float:
        """The root of the mean square; NaN without numbers."""
        return self._moment("rms")

    @property
    def std(self) -> float:
        """The standard deviation; NaN without numbers."""
        return self._moment("std")

    def quantile(self, share: float) -> float:
        """Returns the number below which a share of the numbers is, linear within a bucket.

        Args:
            share: From 0 to 1; 0.5 is the median.
        """
        return float(quantiles(self.edges[None], self.counts[None], np.array([share]))[0, 0])

    def _moment(self, name: str) -> float:
        numbers = self.minimum, self.maximum, self.count, self.sum, self.sum_of_squares
        return float(moments(*np.array(numbers)[:, None])[name][0])


def moments(
    minimum: NDArray[np.float64],
    maximum: NDArray[np.float64],
    count: NDArray[np.float64],
    sum_: NDArray[np.float64],
    sum_of_squares: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Returns count, min, max, mean, std and rms of histograms; NaN for an empty one.

    All arrays are float64 of shape (histograms,).
    """
    with np.errstate(all="ignore"):
        number = np.where(count > 0, count, math.nan)
        mean, mean_square = sum_ / number, sum_of_squares / number
        # Rounding can make the difference negative.
        std = np.sqrt(np.maximum(mean_square - mean**2, 0.0))
        rms = np.sqrt(np.maximum(mean_square, 0.0))
    is_empty = np.isnan(number)
    return {
        "count": count,
        "min": np.where(is_empty, math.nan, minimum),
        "max": np.where(is_empty, math.nan, maximum),
        "mean": mean,
        "std": std,
        "rms": rms,
    }


def quantiles(
    edges: NDArray[np.float64], counts: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns quantiles of histograms with the same number of buckets; NaN for an empty one.

    Args:
        edges: Shape (histograms, buckets + 1).
        counts: Shape (histograms, buckets).
        shares: From 0 to 1. Shape (quantiles,).

    Returns:
        Shape (histograms, quantiles). Linear within a bucket.
    """
    found = np.full((len(counts), len(shares)), math.nan)
    if not counts.shape[1]:
        return found
    cumulative = np.cumsum(counts, axis=1)
    rows = np.arange(len(counts))
    for place, share in enumerate(shares):
        wanted = share * cumulative[:, -1]
        # The first bucket that reaches the share. An empty one holds no quantile.
        bucket = np.argmax((cumulative >= wanted[:, None]) & (counts > 0), axis=1)
        own, left, right = counts[rows, bucket], edges[rows, bucket], edges[rows, bucket + 1]
        with np.errstate(all="ignore"):
            inside = (wanted - (cumulative[rows, bucket] - own)) / own
            found[:, place] = left + np.clip(inside, 0.0, 1.0) * (right - left)
    found[~(cumulative[:, -1] > 0)] = math.nan
    return found


def inner_edges(
    minimum: NDArray[np.float64], maximum: NDArray[np.float64], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the edges of histograms whose right edges are known.

    The outer edges are the smallest and the largest number, also where a writer's own are farther
    out, such as those of TensorFlow 1, which go to the largest float.

    Args:
        minimum: Shape (histograms,).
        maximum: Shape (histograms,).
        limits: Right edges. Shape (histograms, buckets).

    Returns:
        Shape (histograms, buckets + 1).
    """
    edges: NDArray[np.float64] = np.concatenate([minimum[:, None], limits], axis=1)
    is_ordered = (minimum <= maximum)[:, None]
    low = np.where(is_ordered, minimum[:, None], -math.inf)
    high = np.where(is_ordered, maximum[:, None], math.inf)
    return np.clip(edges, low, high)


def from_message(histogram: Any) -> HistogramValue:
    """Returns the histogram of a `HistogramProto`.

    Raises:
        UnreadableValue: There are not as many edges as buckets.
    """
    limits = np.array(histogram.bucket_limit, dtype=np.float64)
    counts = np.array(histogram.bucket, dtype=np.float64)
    if len(limits) != len(counts):
        raise UnreadableValue(f"a histogram has {len(limits)} edges and {len(counts)} buckets")
    minimum, maximum = np.array([[histogram.min], [histogram.max]])
    is_empty = not histogram.num > 0
    return HistogramValue(
        count=histogram.num,
        minimum=math.nan if is_empty else histogram.min,
        maximum=math.nan if is_empty else histogram.max,
        sum=histogram.sum,
        sum_of_squares=histogram.sum_squares,
        edges=inner_edges(minimum, maximum, limits[None])[0],
        counts=counts,
    )


def from_tensor(rows: NDArray[Any]) -> HistogramValue:
    """Returns the histogram of a tensor of shape (buckets, 3): left edge, right edge, count.

    Raises:
        UnreadableValue: The tensor has another shape.
    """
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise UnreadableValue(f"a histogram has the shape {rows.shape}")
    left, right, counts = rows.astype(np.float64).T
    middle = (left + right) / 2
    full = counts > 0
    return HistogramValue(
        count=float(counts.sum()),
        minimum=float(left[full].min()) if full.any() else math.nan,
        maximum=float(right[full].max()) if full.any() else math.nan,
        sum=float((middle * counts).sum()),
        sum_of_squares=float((middle**2 * counts).sum()),
        edges=np.concatenate([left[:1], right]) if len(left) else np.zeros(1),
        counts=counts,
    )
