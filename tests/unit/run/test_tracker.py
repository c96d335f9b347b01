"""Histograms in the form of NumPy: nothing is counted twice, and nothing is lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tbtrainer.records import Histogram
from tbtrainer.run.tracker import numpy_histogram


def histogram(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> Histogram:
    return Histogram(edges[0], edges[-1], int(counts.sum()), 0.0, 0.0, edges[1:], counts)


def test_counts_and_edges_are_those_of_numpy() -> None:
    counts, edges = np.histogram(np.random.default_rng(0).normal(size=1000), bins=20)
    got_counts, got_edges = numpy_histogram(histogram(counts.astype(np.float64), edges))
    assert np.array_equal(got_counts, counts)
    assert np.array_equal(got_edges, edges)


@given(st.integers(1, 1024), st.integers(1, 600))
def test_merging_buckets_keeps_total_and_range(buckets: int, most: int) -> None:
    counts, edges = np.arange(1.0, buckets + 1), np.arange(buckets + 1.0)
    merged, merged_edges = numpy_histogram(histogram(counts, edges), most)
    assert len(merged) == len(merged_edges) - 1 <= most
    assert merged.sum() == counts.sum()
    assert np.all(np.diff(merged_edges) > 0)
    assert merged_edges[[0, -1]].tolist() == [0.0, buckets]
    # Each merged bucket holds the elements between its edges.
    assert np.array_equal(np.diff(np.append(0, counts.cumsum())[merged_edges.astype(int)]), merged)


def test_equal_elements_get_a_bucket_with_a_width() -> None:
    expected = np.histogram(np.full(9, 3.0), bins=1)
    got = numpy_histogram(histogram(np.array([9.0]), np.array([3.0, 3.0])))
    assert [part.tolist() for part in got] == [part.tolist() for part in expected]
