"""Many histograms at once, as columns."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tbtrainer.reading.histograms import HistogramValue, inner_edges, moments, quantiles
from tbtrainer.reading.tensors import UnreadableValue
from tbtrainer.reading.values import decoded
from tbtrainer.reading.wire import HISTOGRAM_NUMBERS, WireHistogram, WireValue

# The quantiles, in percent and as shares of all numbers.
PERCENTS = (1, 5, 25, 50, 75, 95, 99)
_SHARES = np.array(PERCENTS) / 100
_NUMBERS = len(HISTOGRAM_NUMBERS)


def histogram_columns(values: Sequence[bytes]) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """Returns columns of histograms.

    Those that have the same number of buckets are read together: one by one takes five times as
    long.

    Args:
        values: Serialized `Summary.Value`s.

    Returns:
        For each value whether it could be read. bool, shape (values,). Then the columns of those
        that could: count, min, max, mean, std, rms and p1 to p99 as float64, edges and counts as
        lists of arrays.
    """
    numbers = np.zeros((len(values), _NUMBERS))
    edges: list[Any] = [None] * len(values)
    counts: list[Any] = [None] * len(values)
    shares = np.zeros((len(values), len(PERCENTS)))
    places_of: dict[int, list[int]] = defaultdict(list)
    packed: list[Any] = [None] * len(values)
    for place, value in enumerate(values):
        packed[place] = _packed(value)
        if packed[place] is None:
            read = _read_alone(value)
            if read is not None:
                numbers[place] = _numbers_of(read)
                edges[place], counts[place] = read.edges, read.counts
                shares[place] = quantiles(read.edges[None], read.counts[None], _SHARES)[0]
        else:
            places_of[len(packed[place].bucket)].append(place)
    for places in places_of.values():
        own, own_edges, own_counts = _read_together([packed[place] for place in places])
        numbers[places], shares[places] = own, quantiles(own_edges, own_counts, _SHARES)
        for place, one, other in zip(places, own_edges, own_counts, strict=True):
            edges[place], counts[place] = one, other
    is_read = np.array([one is not None for one in edges], dtype=bool)
    columns: dict[str, Any] = moments(*numbers[is_read].T)
    for percent, column in zip(PERCENTS, shares[is_read].T, strict=True):
        columns[f"p{percent}"] = column
    columns["edges"] = [one for one in edges if one is not None]
    columns["counts"] = [one for one in counts if one is not None]
    return is_read, columns


def _packed(value: bytes) -> Any:
    """Returns a histogram whose buckets are packed lists of equal lengths; else `None`."""
    try:
        found = WireHistogram.FromString(WireValue.FromString(value).histo)
    except DecodeError:
        return None
    size = len(found.bucket)
    return found if size and size % 8 == 0 and size == len(found.bucket_limit) else None


def _read_alone(value: bytes) -> HistogramValue | None:
    try:
        found = decoded("histogram", value)
    except UnreadableValue:
        return None
    return found if isinstance(found, HistogramValue) else None


def _numbers_of(histogram: HistogramValue) -> tuple[float, ...]:
    """Returns the numbers of a histogram in the order of `HISTOGRAM_NUMBERS`."""
    return (
        histogram.minimum,
        histogram.maximum,
        histogram.count,
        histogram.sum,
        histogram.sum_of_squares,
    )


def _read_together(
    packed: Sequence[Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns numbers, edges and counts of histograms that have the same number of buckets.

    Returns:
        The numbers in the order of `HISTOGRAM_NUMBERS`, shape (histograms, 5). The edges, shape
        (histograms, buckets + 1). The counts, shape (histograms, buckets).
    """
    numbers = np.array([[getattr(one, name) for name in HISTOGRAM_NUMBERS] for one in packed])
    shape = len(packed), -1
    limits = np.frombuffer(b"".join(one.bucket_limit for one in packed), "<f8").reshape(shape)
    counts = np.frombuffer(b"".join(one.bucket for one in packed), "<f8").reshape(shape)
    return numbers, inner_edges(numbers[:, 0], numbers[:, 1], limits), counts
