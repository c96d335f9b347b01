"""Differences between tensors and earlier copies are exact, whatever the dtype and the strides."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tbtrainer.statistics import (
    Differences,
    PreviousExtremes,
    Snapshot,
    SnapshotRows,
    TensorCopies,
    WholeTensors,
    differences,
    take_snapshot,
)

CPU = torch.device("cpu")


def snapshot(source: Callable[[], object], names: list[str], counts: list[int]) -> Snapshot:
    rows = SnapshotRows.of(names, counts, CPU)
    return take_snapshot(source, rows, WholeTensors(), previous=PreviousExtremes(rows))  # type: ignore[arg-type]


def assert_equal(found: Snapshot, expected: Snapshot) -> None:
    for name in ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets"):
        left, right = getattr(found.statistics, name), getattr(expected.statistics, name)
        assert torch.equal(left.long(), right.long()) or torch.equal(left, right), name
    assert torch.equal(found.linear, expected.linear)
    for name in ("sum", "sum_of_squares"):
        left, right = getattr(found.statistics, name), getattr(expected.statistics, name)
        assert torch.allclose(left, right, rtol=1e-9, atol=1e-12), name


def tensors(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(300, 7).to(dtype),
        torch.randn(40, 30).to(dtype).t(),
        torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last),
        torch.randn(50, 8).to(dtype)[:, ::2],
        torch.randn(()).to(dtype),
        torch.randn(0, 3).to(dtype),
    ]


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [64, 2**20])
def test_statistics_are_those_of_the_differences(
    dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "BATCH", batch)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    before = tensors(dtype)
    copies = TensorCopies.of(before)
    # In place, as an optimizer does it; some elements stay as they are.
    expected = []
    for tensor in before:
        old = tensor.to(wide, copy=True)
        tensor.copy_((old * (1 + 1e-3 * torch.randn(tensor.shape).to(wide))).to(dtype))
        expected.append(tensor.to(wide) - old)
    names, counts = [str(n) for n in range(6)], [t.numel() for t in before]
    found = snapshot(lambda: Differences(before, copies), names, counts)
    assert_equal(found, snapshot(lambda: expected, names, counts))


def test_tensors_of_one_row_and_absent_ones_are_counted_together() -> None:
    one, two = torch.ones(4), torch.ones(4)
    copies = TensorCopies.of([one, None, two])
    one += 1
    found = snapshot(lambda: Differences([one, None, two], copies), ["a", "b", "a"], [4, 3, 4])
    assert found.statistics.count.tolist() == [8, 0]
    assert found.statistics.zeros.tolist() == [4, 0]
    assert found.statistics.sum.tolist() == [4.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_slices_alone_have_copies(dtype: torch.dtype) -> None:
    empty = torch.zeros(0, dtype=dtype)
    found = snapshot(lambda: Differences([empty], TensorCopies.of([empty])), ["a"], [3])
    assert found.statistics.count.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_smallest_change_of_an_element_is_not_zero(dtype: torch.dtype) -> None:
    values = torch.tensor([1e-30, 1.0, -3.0, 0.0]).to(dtype)
    copies = TensorCopies.of([values])
    values.copy_(torch.nextafter(values, torch.full_like(values, torch.inf)))
    found = snapshot(lambda: Differences([values], copies), ["x"], [4])
    assert found.statistics.zeros.tolist() == [0]


def test_a_large_tensor_of_narrow_values_gets_a_linear_pass() -> None:
    values = torch.zeros(70_000)
    rows = SnapshotRows.of(["x"], [70_000], CPU)
    previous = PreviousExtremes(rows)
    for _ in range(2):
        copies = TensorCopies.of([values])
        values += 1 + 0.01 * torch.rand(70_000)

        source = partial(Differences, [values], copies)
        found = take_snapshot(source, rows, WholeTensors(), previous=previous)
    assert found.linear.sum() == 70_000


def test_a_copy_is_not_changed_by_a_step() -> None:
    values = torch.ones(3, 2)
    copies = TensorCopies.of([values, values.t()])
    values.zero_()
    assert [copy.tolist() for copy in copies.flat if copy is not None] == [[-1.0] * 6] * 2
