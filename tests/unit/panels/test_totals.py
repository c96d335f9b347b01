"""Totals: exact sums, on the device, of values that are alike in every batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.panels.totals import Totals
from tests.accelerator import Accelerator


def summed(*batches: dict[str, Any]) -> dict[str, Tensor]:
    totals = Totals()
    for batch in batches:
        totals.add(batch)
    return totals.sums


def test_counts_are_added_as_whole_numbers() -> None:
    large = 2**40 + 1
    sums = summed({"n": torch.tensor([large, 2])}, {"n": torch.tensor([1, 3])})
    assert sums["n"].dtype == torch.int64
    assert sums["n"].tolist() == [large + 1, 5]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_small_whole_numbers_do_not_overflow(dtype: torch.dtype) -> None:
    sums = summed(*[{"n": torch.ones(2, dtype=dtype)}] * 300)
    assert sums["n"].tolist() == [300, 300]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_are_added_in_float64(dtype: torch.dtype) -> None:
    sums = summed(*[{"x": torch.tensor(0.1, dtype=dtype)}] * 3000)
    assert sums["x"].dtype == torch.float64
    assert sums["x"].item() == pytest.approx(3000 * torch.tensor(0.1, dtype=dtype).item())


def test_values_are_not_kept_in_the_same_memory() -> None:
    values = torch.ones(2, dtype=torch.int64)
    totals = Totals()
    totals.add({"n": values})
    values.zero_()
    totals.add({"n": torch.ones(2, dtype=torch.int64)})
    assert totals.sums["n"].tolist() == [2, 2]
    assert values.tolist() == [0, 0]


def test_a_batch_may_have_nothing_to_add() -> None:
    assert summed({}, {"n": torch.tensor(2)}, {}, {"n": torch.tensor(3)})["n"].item() == 5


@pytest.mark.parametrize(
    "second, said",
    [
        ({"n": torch.ones(3)}, r"is floating of shape \(3,\)"),
        ({"n": torch.ones(2, dtype=torch.int64)}, r"is whole of shape \(2,\)"),
    ],
)
def test_another_value_than_before_is_named(second: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=rf"'n' was floating of shape \(2,\).*{said}"):
        summed({"n": torch.ones(2)}, second)


def test_values_of_other_names_are_added_apart() -> None:
    one = torch.ones(1)
    sums = summed({"n": one}, {"m": one}, {"n": one, "m": one})
    assert {name: value.item() for name, value in sums.items()} == {"n": 2, "m": 2}


def test_totals_that_take_much_memory_are_refused() -> None:
    rows = torch.zeros(150, 1000, dtype=torch.int8)
    with pytest.raises(ValueError, match="2,400,000 bytes"):
        summed({"n": rows}, {"m": rows})


def test_a_total_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="'n' as a float"):
        summed({"n": 1.0})


def test_a_device_without_float64_adds_in_float32() -> None:
    with Accelerator("mps", has_float64=False) as accelerator:
        sums = summed(*[{"x": accelerator.put(torch.ones(2))}] * 3)
    assert sums["x"].dtype == torch.float32


def test_the_device_is_not_waited_for() -> None:
    with Accelerator("lazy") as accelerator:
        accelerator.may_be_waited_for = False
        sums = summed(*[{"x": accelerator.put(torch.ones(2))}] * 3)
        assert sums["x"].inner.tolist() == [3, 3]
