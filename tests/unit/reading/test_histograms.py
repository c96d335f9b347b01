"""Moments and quantiles of histograms, one by one and as columns."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from torch.utils.tensorboard.summary import histogram

from tbtrainer.reading.histogram_table import PERCENTS, histogram_columns
from tbtrainer.reading.histograms import HistogramValue
from tbtrainer.reading.tensors import UnreadableValue
from tbtrainer.reading.values import decoded
from tests.event_bytes import metadata

# The default ones of `SummaryWriter.add_histogram`.
_RIGHT = 1e-12 * 1.1 ** np.arange(774)
DEFAULT_BINS = [*-_RIGHT[::-1], 0.0, *_RIGHT]


def serialized(proto: HistogramProto) -> bytes:
    data: bytes = Summary.Value(tag="h", histo=proto).SerializeToString()
    return data


def of_torch(numbers: NDArray[np.float64], bins: Any = DEFAULT_BINS) -> bytes:
    """The histogram of some numbers as torch writes it."""
    data: bytes = histogram("h", numbers, bins).value[0].SerializeToString()
    return data


def of_tensor(rows: NDArray[np.float64]) -> bytes:
    """A histogram as TensorFlow 2 writes it."""
    tensor = TensorProto(dtype=2, tensor_content=rows.tobytes())
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    value = Summary.Value(tag="h", tensor=tensor, metadata=metadata("histograms"))
    data: bytes = value.SerializeToString()
    return data


numbers = hnp.arrays(
    np.float64,
    st.integers(1, 50),
    elements=st.floats(-1e3, 1e3).filter(lambda number: number == 0 or abs(number) > 1e-6),
)


@given(numbers)
def test_moments_are_those_of_the_numbers(values: NDArray[np.float64]) -> None:
    found = decoded("histogram", of_torch(values))
    assert isinstance(found, HistogramValue)
    assert (found.count, found.minimum, found.maximum) == (
        len(values),
        values.min(),
        values.max(),
    )
    close = {"rel": 1e-6, "abs": 1e-6}
    assert found.mean == pytest.approx(values.mean(), **close)
    assert found.rms == pytest.approx(np.sqrt(np.mean(values**2)), **close)
    assert found.std == pytest.approx(values.std(), rel=1e-6, abs=1e-3)


@given(numbers, st.floats(0, 1))
def test_a_quantile_is_in_the_bucket_of_the_number(
    values: NDArray[np.float64], share: float
) -> None:
    found = decoded("histogram", of_torch(values))
    quantile = found.quantile(share)
    exact = np.quantile(values, share, method="inverted_cdf")
    # A number on an edge belongs to the bucket on its left or on its right.
    left = max(np.searchsorted(found.edges, exact, "left") - 1, 0)
    right = min(np.searchsorted(found.edges, exact, "right"), len(found.counts))
    slack = 1e-9 * max(1.0, abs(exact))
    assert found.edges[left] - slack <= quantile <= found.edges[right] + slack


def test_quantiles_of_even_numbers_are_exact() -> None:
    edges = np.arange(101.0)
    rows = np.stack([edges[:-1], edges[1:], np.ones(100)], axis=1)
    found = decoded("histogram", of_tensor(rows))
    assert [found.quantile(share) for share in (0, 0.25, 0.5, 1)] == [0, 25, 50, 100]


def test_no_quantile_lies_in_an_empty_bucket() -> None:
    rows = np.array([[0, 1, 0], [1, 2, 5], [2, 9, 0], [9, 10, 5], [10, 20, 0]], dtype=float)
    found = decoded("histogram", of_tensor(rows))
    assert (found.quantile(0), found.quantile(0.5), found.quantile(1)) == (1, 2, 10)
    assert (found.minimum, found.maximum) == (1, 10)


@given(st.lists(numbers, max_size=6))
def test_columns_are_those_of_each_histogram(values: list[NDArray[np.float64]]) -> None:
    data = [of_torch(one, bins) for one in values for bins in (DEFAULT_BINS, "auto")]
    each = [decoded("histogram", one) for one in data]
    is_read, columns = histogram_columns(data)
    assert is_read.tolist() == [True] * len(data)
    for name, attribute in {"count": "count", "min": "minimum", "max": "maximum"}.items():
        assert columns[name].tolist() == [getattr(one, attribute) for one in each]
    for name in ("mean", "std", "rms"):
        assert columns[name].tolist() == [getattr(one, name) for one in each]
    for percent in PERCENTS:
        assert columns[f"p{percent}"].tolist() == [one.quantile(percent / 100) for one in each]
    for one, edges, counts in zip(each, columns["edges"], columns["counts"], strict=True):
        np.testing.assert_array_equal(one.edges, edges)
        np.testing.assert_array_equal(one.counts, counts)


def test_buckets_that_are_not_packed_are_read() -> None:
    packed = serialized(HistogramProto(min=0, max=2, num=3, bucket_limit=[1, 2], bucket=[1, 2]))
    limits = b"".join(b"\x31" + np.float64(limit).tobytes() for limit in (1, 2))
    counts = b"".join(b"\x39" + np.float64(count).tobytes() for count in (1, 2))
    numbers_of = HistogramProto(min=0, max=2, num=3).SerializeToString() + limits + counts
    loose = b"\x0a\x01h\x2a" + bytes([len(numbers_of)]) + numbers_of
    assert histogram_columns([packed])[1]["p50"] == histogram_columns([loose])[1]["p50"]


EMPTY = [
    serialized(HistogramProto()),
    serialized(HistogramProto(bucket_limit=[1, 2], bucket=[0, 0])),
    of_tensor(np.zeros((0, 3))),
    of_tensor(np.array([[0.0, 1.0, 0.0]])),
]


@pytest.mark.parametrize("data", EMPTY, ids=["nothing", "zeros", "no rows", "zero rows"])
def test_an_empty_histogram_has_no_moments(data: bytes) -> None:
    found = decoded("histogram", data)
    _, columns = histogram_columns([data])
    assert found.count == columns["count"][0] == 0
    each = [found.minimum, found.maximum, found.mean, found.std, found.rms, found.quantile(0.5)]
    each += [columns[name][0] for name in ("min", "max", "mean", "std", "rms", "p50")]
    assert all(map(math.isnan, each))


BROKEN = [
    serialized(HistogramProto(num=1, bucket_limit=[1, 2, 3], bucket=[1])),
    of_tensor(np.zeros((2, 2))),
    b"\x2a\xff",
    Summary.Value(tag="h", tensor=TensorProto(dtype=7)).SerializeToString(),
]


@pytest.mark.parametrize("data", BROKEN, ids=["edges", "shape", "bytes", "dtype"])
def test_a_broken_histogram_is_told_from_others(data: bytes) -> None:
    with pytest.raises(UnreadableValue):
        decoded("histogram", data)
    whole = of_torch(np.arange(5.0))
    is_read, columns = histogram_columns([data, whole])
    assert (is_read.tolist(), columns["count"].tolist()) == ([False, True], [5.0])


def test_numbers_that_are_not_finite_break_nothing() -> None:
    odd = [math.nan, math.inf, -math.inf, -5.0]
    data = [
        serialized(HistogramProto(min=one, max=one, num=2, bucket_limit=[one, 2], bucket=[one, 1]))
        for one in odd
    ]
    is_read, columns = histogram_columns(data)
    assert is_read.all() and len(columns["p50"]) == len(odd)
