"""A snapshot adds up what its rows hold, and a rank that fails still takes part."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tbtrainer.sharding import parameter_table
from tbtrainer.statistics import (
    PreviousExtremes,
    Snapshot,
    SnapshotRows,
    TensorStatistics,
    WholeTensors,
    measure,
    measure_linear,
    take_snapshot,
)
from tbtrainer.statistics.readers import cpu_small

CPU = torch.device("cpu")


def rows_of(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> SnapshotRows:
    return SnapshotRows.of(names, [tensor.numel() for tensor in tensors], CPU)


def snapshot_of(
    names: Sequence[str], tensors: Sequence[torch.Tensor], backend: Any = "auto"
) -> Snapshot:
    return take_snapshot(lambda: tensors, rows_of(names, tensors), WholeTensors(), None, backend)


def normal(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def assert_sum_of_members(group: Snapshot, members: Snapshot, row_of: Sequence[int]) -> None:
    for row in range(len(group.rows.names)):
        mine = [at for at, owner in enumerate(row_of) if owner == row]
        found, parts = group.statistics, members.statistics
        for field in ("count", "zeros", "nonfinite", "buckets"):
            assert torch.equal(getattr(found, field)[row], getattr(parts, field)[mine].sum(0))
        assert found.minimum[row] == parts.minimum[mine].min()
        assert found.maximum[row] == parts.maximum[mine].max()
        squares = parts.sum_of_squares[mine].sum()
        torch.testing.assert_close(found.sum_of_squares[row], squares, rtol=1e-6, atol=0)
        # Positive and negative elements cancel: their size counts, at most this much in sum.
        size = (found.count[row] * squares).sqrt()
        assert (found.sum[row] - parts.sum[mine].sum()).abs() <= 1e-6 * size


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.sampled_from([7, 300]),
    st.sampled_from(["auto", "plain"]),
    st.booleans(),
    st.integers(0, 3),
)
def test_a_row_counts_the_sum_of_its_members(
    row_of: list[int], size: int, backend: str, large: bool, seed: int
) -> None:
    tensors = [normal(size, seed + at) for at in range(len(row_of))]
    tensors[0][:3] = torch.tensor([torch.nan, 0.0, -0.0])
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(cpu_small, "SMALL_MAX_ELEMENTS", 0)
        group = snapshot_of([f"row {row}" for row in row_of], tensors, backend)
        members = snapshot_of([str(at) for at in range(len(row_of))], tensors, backend)
    assert_sum_of_members(group, members, group.rows.row_of)


@pytest.mark.parametrize("backend", ["kernel", "plain"])
def test_members_of_several_dtypes_share_a_row(backend: str) -> None:
    if backend == "kernel":
        pytest.importorskip("triton")
    tensors = [normal(500, 0), normal(500, 1).double(), normal(500, 2).bfloat16(), normal(500, 3)]
    group = snapshot_of(["a", "a", "b", "b"], tensors, backend)
    members = snapshot_of(list("wxyz"), tensors)
    assert_sum_of_members(group, members, group.rows.row_of)


def test_the_linear_pass_of_a_row_counts_all_its_members() -> None:
    tensors = [1 + 0.01 * normal(768, seed) for seed in range(5)]
    group = snapshot_of(["a"] * 5, tensors)
    ends = group.statistics.minimum, group.statistics.maximum
    assert torch.equal(group.linear, measure_linear([torch.cat(tensors)], *ends))


def test_large_tensors_have_no_linear_pass() -> None:
    rows = SnapshotRows.of(["a", "b", "c", "c"], [65_536, 65_537, 10, 10], CPU)
    assert rows.linear_rows == (0, 2)
    assert rows.linear_index.tolist() == [0, 2]


def test_a_row_of_unknown_size_has_no_linear_pass() -> None:
    rows = SnapshotRows.of(["a"], [None], CPU)
    assert rows.linear_rows == ()
    assert rows.count_mismatches([12]) == {}


@pytest.mark.parametrize(
    ("count", "fits"), [(0, True), (6, True), (12, True), (18, True), (5, False), (24, False)]
)
def test_a_row_counts_each_member_whole_or_not_at_all(count: int, fits: bool) -> None:
    rows = SnapshotRows.of(["a"] * 3, [6] * 3, CPU)
    assert (rows.count_mismatches([count]) == {}) == fits


def test_members_of_a_row_have_one_size() -> None:
    with pytest.raises(ValueError, match="3 and 4 elements"):
        SnapshotRows.of(["a", "a"], [3, 4], CPU)


PACKED = ["float4_e2m1fn_x2", "uint4", "int4", "uint1", "bits8", "uint16"]


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_dtype_costs_one_tensor_only(name: str, caplog: Any) -> None:
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip("unknown to this version of torch")
    model = nn.Linear(4, 2)
    packed = torch.zeros(8, dtype=torch.uint8).view(dtype)
    model.packed = nn.Parameter(packed, requires_grad=False)
    table = parameter_table(model, is_world_process_zero=True)
    counts = [row.global_count for row in table.rows]
    rows = SnapshotRows.of([row.name for row in table.rows], counts, CPU)
    with caplog.at_level(logging.WARNING):
        found = take_snapshot(table.parameters, rows, WholeTensors()).statistics.count.tolist()
    assert dict(zip(rows.names, found, strict=True)) == {"weight": 8, "bias": 2, "packed": 0}
    assert str(dtype) in caplog.text


class Failing(TorchDispatchMode):
    """Runs out of memory at the n-th operation that allocates."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.allocations = at, 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.on and _allocates(result, (args, kwargs)):
            self.allocations += 1
            if self.allocations == self.at:
                raise torch.cuda.OutOfMemoryError("no room")
        return result

    on = True


def _allocates(result: Any, inputs: Any) -> bool:
    def storages(tree: Any) -> set[int]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return {tensor.untyped_storage()._cdata for tensor in tensors}

    return not storages(result) <= storages(inputs)


class Noted:
    """A reduction that notes what it is given.

    Args:
        counts_dtype: See `Reduction`.
    """

    def __init__(self, counts_dtype: torch.dtype = torch.int64) -> None:
        self.counts_dtype = counts_dtype
        self.calls: list[str] = []

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        self.calls.append("extremes" if statistics is not None else "no extremes")

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        self.calls.append("counts" if snapshot is not None else "no counts")


def outcome(at: int, backend: Any, dtype: torch.dtype) -> tuple[list[str], str | None]:
    """What the reduction was given when the n-th allocation failed, and the error."""
    tensors = [normal(100, 0), normal(70_000, 1), normal(50, 2).double()]
    tensors.append(1 + 0.001 * normal(70_001, 3))
    rows, reduction = rows_of(list("abcd"), tensors), Noted(dtype)
    previous = PreviousExtremes(rows)
    previous.keep(measure(tensors, CPU, torch.tensor(2.0)))
    with Failing(at):
        try:
            take_snapshot(lambda: tensors, rows, reduction, torch.tensor(2.0), backend, previous)
        except torch.cuda.OutOfMemoryError as error:
            return reduction.calls, str(error)
    return reduction.calls, None


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("plain", torch.int64), ("plain", torch.int32), ("kernel", torch.int64)],
)
def test_a_failed_allocation_anywhere_reaches_both_reductions(
    backend: str, dtype: torch.dtype
) -> None:
    if backend == "kernel":
        pytest.importorskip("triton")
    failures: list[list[str]] = []
    while True:
        calls, error = outcome(len(failures) + 1, backend, dtype)
        if error is None:
            break
        failures.append(calls)
    assert calls == ["extremes", "counts"]
    assert len(failures) > 20
    assert {tuple(calls) for calls in failures} == {
        ("no extremes", "no counts"),
        ("extremes", "no counts"),
    }


def test_counters_that_numpy_cannot_allocate_reach_both_reductions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = [normal(100, 0)]
    rows, reduction = rows_of(["a"], tensors), Noted()

    def no_room(*_: Any) -> np.ndarray:
        raise MemoryError("no room")

    monkeypatch.setattr(np, "zeros", no_room)
    with pytest.raises(MemoryError):
        take_snapshot(lambda: tensors, rows, reduction)
    assert reduction.calls == ["no extremes", "no counts"]


def test_parts_that_cannot_be_read_reach_both_reductions() -> None:
    def unreadable() -> list[torch.Tensor]:
        raise OSError("the swap file is gone")

    reduction = Noted()
    with pytest.raises(OSError, match="swap file"):
        take_snapshot(unreadable, rows_of(["a"], [torch.ones(3)]), reduction)
    assert reduction.calls == ["no extremes", "no counts"]
