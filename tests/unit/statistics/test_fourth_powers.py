"""The fourth powers of all elements follow from the counts, within a known error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.statistics.fourth_powers import FourthPowers, fourth_powers
from tests.unit.statistics.test_merge import snapshot_of

# A float32 lies in a bucket whose edges differ by at most 1/16.
MOST, LEAST = 1.134, 0.888
finite = st.floats(width=32, min_value=-(2.0**24), max_value=2.0**24, allow_subnormal=False)


def powers_of(*tensors: torch.Tensor) -> FourthPowers:
    return fourth_powers(snapshot_of(*tensors).statistics)


def exact(tensor: torch.Tensor) -> float:
    return float((tensor.double() ** 4).sum())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(finite, min_size=1, max_size=40), min_size=1, max_size=3))
def test_the_sum_lies_between_its_bounds(rows: list[list[float]]) -> None:
    tensors = [torch.tensor(row, dtype=torch.float32) for row in rows]
    found = powers_of(*tensors)
    for row, tensor in enumerate(tensors):
        true = exact(tensor)
        assert found.least[row] <= true * (1 + 1e-9)
        assert found.most[row] >= true * (1 - 1e-9)
        assert found.least[row] <= found.estimate[row] * (1 + 1e-9)
        assert found.estimate[row] <= found.most[row] * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, min_value=2.0**-40, max_value=2.0**24), min_size=1))
def test_the_estimate_has_the_error_of_a_bucket(row: list[float]) -> None:
    tensor = torch.tensor(row, dtype=torch.float32)
    tensor[::2] *= -1
    ratio = powers_of(tensor).estimate[0] / exact(tensor)
    assert LEAST <= ratio <= MOST


@pytest.mark.parametrize("value", [1.0, -1.03, 3e-9, 0.7, 2.0**24])
def test_equal_elements_are_exact(value: float) -> None:
    tensor = torch.full((1000,), value)
    assert powers_of(tensor).estimate[0] == pytest.approx(exact(tensor), rel=1e-9)


@pytest.mark.parametrize("outlier", [100.0, -100.0, 1e30, -3e7])
def test_one_outlier_is_exact(outlier: float) -> None:
    tensor = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    tensor[17] = outlier
    assert powers_of(tensor).estimate[0] == pytest.approx(exact(tensor), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 300.0])
def test_a_smooth_distribution_is_nearly_exact(scale: float) -> None:
    tensor = torch.randn(100_000, generator=torch.Generator().manual_seed(1)) * scale
    assert powers_of(tensor).estimate[0] == pytest.approx(exact(tensor), rel=5e-3)
    rounded = tensor.bfloat16()
    assert powers_of(rounded).estimate[0] == pytest.approx(exact(rounded), rel=2e-2)


def test_the_bounds_show_elements_without_narrow_buckets() -> None:
    tiny = torch.tensor([1e-14, 3e-14, 5e-14, 9e-14])
    found = powers_of(tiny)
    assert found.least[0] < 0.9999 * exact(tiny) < found.most[0]


def test_rows_without_elements_have_no_powers() -> None:
    found = powers_of(torch.zeros(8), torch.full((3,), np.nan), torch.tensor([2.0, 0.0, np.inf]))
    assert found.estimate.tolist() == [0.0, 0.0, 16.0]
    assert found.most.tolist() == [0.0, 0.0, 16.0]


def test_many_rows_are_those_of_single_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(50, generator=generator) * 10.0**-row for row in range(70)]
    together = powers_of(*tensors).estimate
    assert together == pytest.approx([powers_of(t).estimate[0] for t in tensors], rel=1e-12)
