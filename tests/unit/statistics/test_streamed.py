"""Tensors measured one by one give the statistics of all of them together."""

import weakref

import pytest
import torch
from torch import Tensor

from tbtrainer.statistics import (
    PreviousExtremes,
    Snapshot,
    SnapshotRows,
    StreamedTensors,
    WholeTensors,
    measure,
    measure_linear,
    take_snapshot,
)

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def rows_of(names: list[str]) -> SnapshotRows:
    return SnapshotRows.of(names, [None] * len(names), CPU)


def taken(rows: SnapshotRows, stream: StreamedTensors, previous: PreviousExtremes) -> Snapshot:
    return take_snapshot(lambda: stream, rows, WholeTensors(), previous=previous)


def batches(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(4, 6, 5).to(dtype),
        torch.randn(3, 9, 5).to(dtype).transpose(0, 1),
        torch.tensor([[float("inf"), float("nan"), 0.0]]).to(dtype),
        torch.randn(0, 5).to(dtype),
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss_scale", [None, torch.tensor(8.0)], ids=["plain", "scaled"])
def test_batches_add_up_to_their_concatenation(
    dtype: torch.dtype, loss_scale: Tensor | None
) -> None:
    rows = rows_of(["a", "b", "never"])
    previous = PreviousExtremes(rows)
    stream = StreamedTensors(rows, previous.narrow_rows())
    for tensor in batches(dtype):
        stream.add(1, tensor, loss_scale)
    stream.add(0, batches(dtype)[0], loss_scale)
    found = taken(rows, stream, previous).statistics
    whole = torch.cat([tensor.flatten() for tensor in batches(dtype)])
    expected = measure([batches(dtype)[0], whole, None], CPU, loss_scale)
    for name in ("count", "zeros", "nonfinite", "minimum", "maximum"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.buckets.long(), expected.buckets)
    assert torch.allclose(found.sum, expected.sum, rtol=1e-9)
    assert torch.allclose(found.sum_of_squares, expected.sum_of_squares, rtol=1e-9)


def test_members_of_a_row_are_counted_together() -> None:
    rows = rows_of(["experts.*", "experts.*"])
    previous = PreviousExtremes(rows)
    stream = StreamedTensors(rows, previous.narrow_rows())
    stream.add(0, torch.ones(3))
    stream.add(1, torch.full((2,), 2.0))
    found = taken(rows, stream, previous).statistics
    assert found.count.tolist() == [5]
    assert found.sum.tolist() == [7.0]


def test_narrow_rows_have_a_linear_pass_from_the_second_snapshot() -> None:
    rows = rows_of(["wide", "narrow"])
    previous = PreviousExtremes(rows)
    values = 1 + torch.rand(300) / 100
    snapshots = []
    for _ in range(2):
        stream = StreamedTensors(rows, previous.narrow_rows())
        stream.add(0, torch.randn(50))
        stream.add(1, values[:100])
        stream.add(1, values[100:])
        snapshots.append(taken(rows, stream, previous))
    first, second = snapshots
    assert first.linear_line_of == {}
    assert list(second.linear_line_of) == [1]
    line = second.linear[second.linear_line_of[1]]
    low, high = (torch.tensor([end[0]]) for end in (second.narrow.low, second.narrow.high))
    assert torch.equal(line.long(), measure_linear([values], low, high)[0])
    assert int(line.sum()) == 300


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.bool, torch.float32], ids=str)
def test_masked_positions_are_left_out(dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    tensor = torch.randn(3, 4, 2, 5).to(dtype)
    tensor[0, 0, 0, 0] = float("nan")  # Counted.
    tensor[2, 3, 0, 0] = float("inf")  # Padding.
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).to(mask_dtype)
    before = tensor.clone()
    rows = rows_of(["a"])
    previous = PreviousExtremes(rows)
    stream = StreamedTensors(rows, previous.narrow_rows())
    for _ in range(2):
        stream.add(0, tensor, mask=mask)
    found = taken(rows, stream, previous).statistics
    kept = tensor[mask != 0]
    expected = measure([torch.cat([kept, kept])], CPU)
    for name in ("count", "zeros", "nonfinite", "minimum", "maximum"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.buckets.long(), expected.buckets)
    assert torch.equal(before.nan_to_num(7.0), tensor.nan_to_num(7.0))


def test_nothing_of_a_tensor_is_kept() -> None:
    rows = rows_of(["a"])
    stream = StreamedTensors(rows, PreviousExtremes(rows).narrow_rows())
    tensor = torch.randn(5)
    reference = weakref.ref(tensor)
    stream.add(0, tensor)
    del tensor
    assert reference() is None
