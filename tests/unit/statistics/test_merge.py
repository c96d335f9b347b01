"""A few buckets tell the distribution nearly as well as all elements do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard.summary import histogram_raw

from tbtrainer.records import Histogram
from tbtrainer.statistics import (
    Snapshot,
    SnapshotRows,
    WholeTensors,
    histograms,
    take_snapshot,
)
from tests.unit.statistics import merge_reference

CPU = torch.device("cpu")
SIZE = 200_000


def snapshot_of(*tensors: torch.Tensor) -> Snapshot:
    names = [str(row) for row in range(len(tensors))]
    rows = SnapshotRows.of(names, [tensor.numel() for tensor in tensors], CPU)
    return take_snapshot(lambda: tensors, rows, WholeTensors())


def histogram_of(*tensors: torch.Tensor, buckets: int = 64) -> list[Histogram | None]:
    return histograms(snapshot_of(*tensors), buckets)


def edges_of(histogram: Histogram) -> np.ndarray:
    """Edges as TensorBoard draws them: the first is the minimum, the last the maximum."""
    limits = histogram.bucket_limits
    return np.concatenate([[histogram.minimum], limits[:-1], [histogram.maximum]])


def distance(values: torch.Tensor, histogram: Histogram) -> float:
    """Kolmogorov-Smirnov distance between the elements and the drawn histogram."""
    sorted_values = np.sort(values.double().numpy())
    edges = edges_of(histogram)
    cumulative = np.concatenate([[0.0], np.cumsum(histogram.bucket_counts)]) / histogram.count
    drawn = np.interp(sorted_values, edges, cumulative)
    below = np.arange(len(sorted_values)) / len(sorted_values)
    return max(np.abs(drawn - below).max(), np.abs(drawn - below - 1 / len(sorted_values)).max())


def normal(size: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)) * scale


DISTRIBUTIONS = {
    "normal": lambda: normal(SIZE, 0.02),
    "student-t": lambda: torch.from_numpy(np.random.default_rng(0).standard_t(2, SIZE) * 1e-4),
    "log-normal": lambda: normal(SIZE).exp(),
    "uniform": lambda: torch.rand(SIZE, generator=torch.Generator().manual_seed(0)),
    "two modes": lambda: torch.cat([normal(SIZE, 0.1) + 1, normal(SIZE + 1, 0.1) - 1]),
    "an outlier": lambda: torch.cat([normal(SIZE, 1e-3), torch.tensor([1e6])]),
    "a small normal": lambda: normal(4096, 0.02),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_sixty_four_buckets_stay_within_a_hundredth_of_the_distribution(name: str) -> None:
    values = DISTRIBUTIONS[name]()
    (histogram,) = histogram_of(values)
    assert len(histogram.bucket_counts) <= 64
    assert distance(values, histogram) <= 0.01


def test_layer_norm_weights_keep_their_shape() -> None:
    values = 1 + normal(768, 0.01)
    (histogram,) = histogram_of(values)
    assert distance(values, histogram) <= 0.015


ATOMS = {
    "a constant": (torch.full((1000,), 0.25), [0.25]),
    "a large constant": (torch.full((SIZE,), 0.25), [0.25]),
    "zeros": (torch.zeros(100), [0.0]),
    "small integers": (torch.arange(1000) % 6, range(6)),
    "many small integers": (torch.arange(SIZE) % 6, range(6)),
    "signs": ((torch.arange(SIZE) % 3 - 1).float(), [-1, 0, 1]),
    "ninety per cent zeros": (normal(5000) * (torch.arange(5000) % 10 == 0), [0.0]),
    "small signs": ((torch.arange(999) % 3 - 1) * 0.02, [0.0]),
    "zeros below": (normal(5000).relu(), [0.0]),
    "zeros above": (-normal(5000).relu(), [0.0]),
    "a constant beside an outlier": (torch.tensor([0.25] * 999 + [100.0]), [0.25]),
    "a value among noise": (
        normal(SIZE).where(torch.arange(SIZE) % 3 == 0, 0.3),
        [np.float32(0.3)],
    ),
    "many zeros": (normal(SIZE) * (torch.arange(SIZE) % 10 == 0), [0.0]),
}


@pytest.mark.parametrize("name", ATOMS)
def test_an_atom_stays_within_a_thirtieth_of_the_range(name: str) -> None:
    values, atoms = ATOMS[name]
    (histogram,) = histogram_of(values)
    edges, counts = edges_of(histogram), histogram.bucket_counts
    reach = (histogram.maximum - histogram.minimum) / 30
    for atom in atoms:
        near = (edges[:-1] >= atom - reach) & (edges[1:] <= atom + reach)
        narrow = np.diff(edges) <= reach
        assert counts[near & narrow].sum() >= (values == atom).sum().item()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=60), st.integers(8, 80))
def test_merging_keeps_the_total_and_the_ends(values: list[float], buckets: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    finite = tensor[torch.isfinite(tensor)]
    (histogram,) = histogram_of(tensor, buckets=buckets)
    if finite.numel() == 0:
        assert histogram is None
        return
    assert histogram.bucket_counts.sum() == histogram.count == finite.numel()
    assert len(histogram.bucket_counts) <= buckets
    assert (histogram.minimum, histogram.maximum) == (finite.min().item(), finite.max().item())
    assert (np.diff(edges_of(histogram)) >= 0).all()
    assert (histogram.bucket_counts >= 0).all()


DRAWN = st.sampled_from([0.0, 0.3, 1.0, 1.2, -0.7, 3.0, 50.0, -1e-3, -2000.0, 1e6])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(DRAWN, min_size=1, max_size=5, unique=True),
    st.lists(st.lists(DRAWN, min_size=1, max_size=5), min_size=1, max_size=3),
    st.booleans(),
)
def test_a_row_is_merged_alike_whatever_its_batch(
    values: list[float], others: list[list[float]], large: bool
) -> None:
    repeats = 20_000 if large else 3
    tensors = [torch.tensor(row).repeat(repeats) for row in (values, *others)]
    alone, beside = histogram_of(tensors[0])[0], histogram_of(*tensors)[0]
    np.testing.assert_array_equal(alone.bucket_limits, beside.bucket_limits)
    np.testing.assert_array_equal(alone.bucket_counts, beside.bucket_counts)


def assert_equal(found: list[Histogram | None], expected: list[Histogram | None]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_array_equal(mine.bucket_limits, theirs.bucket_limits)
            np.testing.assert_array_equal(mine.bucket_counts, theirs.bucket_counts)


@pytest.mark.parametrize("buckets", [8, 64])
def test_known_distributions_are_merged_as_row_by_row(buckets: int) -> None:
    drawn = [values() for values in DISTRIBUTIONS.values()]
    scaled = [normal(70_000 + at, 10.0 ** (at % 9 - 6)) for at in range(40)]
    snapshot = snapshot_of(*drawn, *(values for values, _ in ATOMS.values()), *scaled)
    assert_equal(histograms(snapshot, buckets), merge_reference.histograms(snapshot, buckets))


NUMBERS = st.one_of(
    DRAWN, st.floats(width=32), st.integers(-6, 6).map(float), st.floats(0.9375, 1.0625, width=32)
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(NUMBERS, max_size=12), st.sampled_from([1, 3, 9_000])),
        min_size=1,
        max_size=6,
    ),
    st.integers(8, 80),
)
def test_any_rows_are_merged_as_row_by_row(
    rows: list[tuple[list[float], int]], buckets: int
) -> None:
    snapshot = snapshot_of(*(torch.tensor(row).repeat(repeats) for row, repeats in rows))
    assert_equal(histograms(snapshot, buckets), merge_reference.histograms(snapshot, buckets))


def test_the_first_bend_is_kept_whatever_the_other_rows_fill() -> None:
    # So many small bends that the first one alone does not fill a bucket.
    values = torch.linspace(0.0, 12.0, 400_000).exp()
    alone, beside = histogram_of(values)[0], histogram_of(values, normal(100_001, 20.0))[0]
    assert alone is not None and alone.bucket_limits[0] == 1.0625
    assert_equal([alone], [beside])


def test_an_incomplete_linear_pass_is_not_used() -> None:
    values = 1 + normal(768, 0.01)
    rows = SnapshotRows.of(["a"], [768], CPU)
    snapshot = take_snapshot(lambda: [values], rows, WholeTensors())
    snapshot.linear[0, snapshot.linear[0].argmax()] -= 1
    (histogram,) = histograms(snapshot, 64)
    assert histogram.bucket_counts.sum() == 768


def test_zeros_of_a_small_tensor_have_a_zero_width_bucket() -> None:
    beside = (normal(3000, 0.1) + 1).where(torch.arange(3000) % 3 > 0, 0.0)
    for values in (beside, -beside, (torch.arange(999) % 3 - 1) * 0.02):
        (histogram,) = histogram_of(values)
        edges = edges_of(histogram)
        at = (edges[:-1] == 0) & (edges[1:] == 0)
        assert histogram.bucket_counts[at].sum() == (values == 0).sum()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_numbers_at_the_ends_of_float64_give_a_histogram_too(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    (histogram,) = histogram_of(tensor)
    assert histogram.bucket_counts.sum() == len(values)
    assert np.isfinite(histogram.bucket_limits).all()
    assert (edges_of(histogram)[:-1] <= edges_of(histogram)[1:]).all()


def test_a_histogram_event_takes_at_most_1280_bytes() -> None:
    (histogram,) = histogram_of(normal(SIZE))
    tag = "gradients/bert.encoder.layer.11.attention.self.query.weight"
    event = Event(summary=histogram_raw(tag, **histogram.raw_fields()), step=1000)
    assert event.ByteSize() <= 1280
