"""Large tensors whose values are close together keep their shape."""

import numpy as np
import pytest
import torch

from tbtrainer.statistics import (
    PreviousExtremes,
    SnapshotRows,
    WholeTensors,
    histograms,
    measure,
    take_snapshot,
)
from tbtrainer.statistics.buckets import NARROW_MAX_ROWS
from tests.unit.statistics.test_merge import distance, edges_of

CPU = torch.device("cpu")
SIZE = 100_000


def normal(seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def snapshots_of(*steps: torch.Tensor) -> list[float]:
    """Takes a snapshot at each step, and returns the distance of each histogram."""
    rows = SnapshotRows.of(["a"], [steps[0].numel()], CPU)
    previous = PreviousExtremes(rows)
    found = []
    for values in steps:
        snapshot = take_snapshot(
            lambda values=values: [values], rows, WholeTensors(), previous=previous
        )
        (histogram,) = histograms(snapshot, 64)
        assert histogram is not None
        assert histogram.bucket_counts.sum() == histogram.count == values.numel()
        assert (np.diff(edges_of(histogram)) >= 0).all()
        found.append(distance(values, histogram))
    return found


NARROW = {
    "around one": lambda seed: 1 + 0.01 * normal(seed),
    "around minus a thousand": lambda seed: -1000 + normal(seed),
    "uniform": lambda seed: 3 + 0.1 * normal(seed).sigmoid(),
    "below the fixed buckets": lambda seed: 1e-20 * normal(seed),
    "above the fixed buckets": lambda seed: 1e9 + 1e8 * normal(seed),
}


@pytest.mark.parametrize("name", NARROW)
def test_the_second_snapshot_is_within_a_hundredth(name: str) -> None:
    values = NARROW[name]
    assert snapshots_of(values(0), values(1))[1] <= 0.01


def test_the_first_snapshot_shows_the_fixed_buckets() -> None:
    (first,) = snapshots_of(1 + 0.01 * normal(0))
    assert first > 0.1


@pytest.mark.parametrize("shift", [-0.02, 0.03])
def test_values_that_moved_keep_their_shape(shift: float) -> None:
    values = 1 + 0.01 * normal(0)
    assert snapshots_of(values, values + shift)[1] <= 0.01


@pytest.mark.parametrize("shift", [-0.9, 1.0, 1e6])
def test_values_that_moved_out_of_the_ends_stay_counted(shift: float) -> None:
    values = 1 + 0.01 * normal(0)
    moved = snapshots_of(values, values + shift)[1]
    assert moved == pytest.approx(snapshots_of(values + shift)[0])


def test_zeros_between_narrow_values_are_set_apart() -> None:
    values = (1e-20 * normal(0)).where(torch.arange(SIZE) % 3 > 0, 0.0)
    rows = SnapshotRows.of(["a"], [SIZE], CPU)
    previous = PreviousExtremes(rows)
    for _ in range(2):
        snapshot = take_snapshot(lambda: [values], rows, WholeTensors(), previous=previous)
    (histogram,) = histograms(snapshot, 64)
    assert histogram is not None
    edges = edges_of(histogram)
    at = (edges[:-1] == 0) & (edges[1:] == 0)
    assert histogram.bucket_counts[at].sum() == (values == 0).sum()


def test_values_of_few_digits_have_buckets_of_their_own() -> None:
    values = (1 + 0.01 * normal(0)).bfloat16()
    rows = SnapshotRows.of(["a"], [SIZE], CPU)
    previous = PreviousExtremes(rows)
    for _ in range(2):
        snapshot = take_snapshot(lambda: [values], rows, WholeTensors(), previous=previous)
    (histogram,) = histograms(snapshot, 64)
    assert histogram is not None
    counts = histogram.bucket_counts
    assert counts[counts > 0].tolist() == values.unique(return_counts=True)[1].tolist()


def test_wide_and_constant_rows_get_no_second_pass() -> None:
    tensors = [normal(0), torch.full((SIZE,), 0.5), torch.full((SIZE,), torch.nan)]
    rows = SnapshotRows.of(list("abc"), [SIZE] * 3, CPU)
    previous = PreviousExtremes(rows)
    previous.keep(measure(tensors, CPU))
    assert previous.narrow_rows().rows == ()


def test_the_narrowest_rows_get_the_slots() -> None:
    count = NARROW_MAX_ROWS + 5
    tensors = [torch.tensor([1.0, 1.1 + 0.2 * (at >= 5)]) for at in range(count - 1, -1, -1)]
    rows = SnapshotRows.of([str(at) for at in range(count)], [SIZE] * count, CPU)
    previous = PreviousExtremes(rows)
    previous.keep(measure(tensors, CPU))
    narrow = previous.narrow_rows().rows
    assert len(narrow) == NARROW_MAX_ROWS
    assert set(range(count - 5, count)) <= set(narrow)


def test_a_rank_that_could_not_measure_knows_no_narrow_rows() -> None:
    rows = SnapshotRows.of(["a"], [SIZE], CPU)
    previous = PreviousExtremes(rows)
    previous.keep(measure([1 + 0.01 * normal(0)], CPU))
    previous.keep(None)
    assert previous.narrow_rows().rows == ()


def test_a_linear_pass_that_lacks_a_rank_is_not_shown() -> None:
    values = 1 + 0.01 * normal(0)
    rows = SnapshotRows.of(["a"], [SIZE], CPU)
    previous = PreviousExtremes(rows)
    previous.keep(measure([values], CPU))
    snapshot = take_snapshot(lambda: [values], rows, WholeTensors(), previous=previous)
    snapshot.linear[0] //= 2
    (histogram,) = histograms(snapshot, 64)
    assert histogram is not None
    assert histogram.bucket_counts.sum() == SIZE


@pytest.mark.parametrize("end", [1.5e308, -1.5e308])
def test_ends_beyond_float64_stay_finite(end: float) -> None:
    rows = SnapshotRows.of(["a"], [SIZE], CPU)
    previous = PreviousExtremes(rows)
    previous.keep(measure([torch.tensor([end, end * 1.1], dtype=torch.float64)], CPU))
    narrow = previous.narrow_rows()
    assert np.isfinite([narrow.low, narrow.high]).all()
    assert (narrow.low < narrow.high).all()
