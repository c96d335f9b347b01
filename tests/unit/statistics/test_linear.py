"""The second pass counts in equal buckets between two given ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.statistics import LINEAR_BUCKET_COUNT, measure, measure_linear
from tbtrainer.statistics.readers import cpu_small

CPU = torch.device("cpu")


def linear_of(*tensors: torch.Tensor | None) -> torch.Tensor:
    found = measure(tensors, CPU)
    return measure_linear(tensors, found.minimum, found.maximum)


def test_equal_buckets_hold_what_numpy_finds_in_them() -> None:
    # Odd numbers of which none is an edge: the buckets are 4 wide and begin at -1000.
    values = torch.arange(-999, -1000 + 4 * LINEAR_BUCKET_COUNT, 2).double()
    low, high = -1000.0, -1000.0 + 4 * LINEAR_BUCKET_COUNT
    counts = measure_linear([values], torch.tensor([low]).double(), torch.tensor([high]).double())
    expected, _ = np.histogram(values, LINEAR_BUCKET_COUNT, (low, high))
    np.testing.assert_array_equal(counts[0], expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(), min_size=1, max_size=60),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_every_finite_element_is_in_one_bucket(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    (counts,) = linear_of(tensor)
    assert counts.sum() == tensor.isfinite().sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(0, 400), st.integers(0, 5))
def test_parts_between_the_same_ends_add_up(size: int, cut: int, seed: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    found = measure([values], CPU)
    ends = [end.expand(2) for end in (found.minimum, found.maximum)]
    parts = measure_linear([values[:cut], values[cut:]], *ends)
    assert torch.equal(parts.sum(0), linear_of(values)[0])


def test_a_tensor_of_several_batches_is_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.arange(100.0), None, torch.arange(7.0), torch.empty(0), torch.ones(3, 4).t()]
    expected, found = linear_of(*tensors), measure(tensors, CPU)
    monkeypatch.setattr(cpu_small, "_BATCH_ELEMENTS", 10)
    ends = found.minimum, found.maximum
    assert torch.equal(measure_linear(tensors, *ends, backend="plain"), expected)
    assert expected.sum(1).tolist() == [100, 0, 7, 0, 12]


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e5m2])
def test_other_dtypes_are_counted_too(dtype: torch.dtype) -> None:
    (counts,) = linear_of(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).to(dtype))
    assert counts[[0, -1]].tolist() == [2, 3]


def test_elements_are_divided_by_the_loss_scale() -> None:
    values = torch.arange(64.0)
    ends = torch.zeros(1, dtype=torch.float64), torch.full((1,), 63 / 1024, dtype=torch.float64)
    scaled = measure_linear([values], *ends, torch.tensor(1024.0))
    assert torch.equal(scaled, linear_of(values))
