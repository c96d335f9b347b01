from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from tbtrainer.sharding import AllRanks, reduce_sum, reduction
from tbtrainer.statistics import (
    BUCKET_COUNT,
    LINEAR_BUCKET_COUNT,
    Snapshot,
    SnapshotRows,
    WholeTensors,
    counters,
    take_snapshot,
    tensor_statistics,
)

CPU = torch.device("cpu")
TENSORS = [torch.randn(70), None, torch.tensor([0.0, torch.nan]), torch.randn(70_000)]


# Process groups of tests that have ended. Their destructor waits for gloo's threads, and holds the
# GIL meanwhile. If such a thread is releasing a tensor, it waits for the GIL (seen with torch 2.6).
_ENDED: list[Any] = []


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    _ENDED.append(dist.group.WORLD)
    dist.destroy_process_group()


def rows() -> SnapshotRows:
    return SnapshotRows.of(list("abcd"), [70, 3, 2, 70_000], CPU)


def snapshot() -> Snapshot:
    return take_snapshot(lambda: TENSORS, rows(), WholeTensors())


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    for name, values in vars(expected.statistics).items():
        assert torch.equal(getattr(found.statistics, name).to(values.dtype), values), name
    assert torch.equal(found.linear.long(), expected.linear)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("least_piece", [2**18, 1])
def test_a_snapshot_of_one_rank_is_its_own(monkeypatch: Any, least_piece: int) -> None:
    monkeypatch.setattr(reduction, "_LEAST_PIECE", least_piece)
    found = take_snapshot(lambda: TENSORS, rows(), AllRanks(rows()))
    assert_same(found, snapshot())
    assert found.failed_ranks == 0


@pytest.mark.usefixtures("one_rank")
def test_a_snapshot_without_rows_is_reduced_too() -> None:
    none = SnapshotRows.of([], [], CPU)
    assert len(take_snapshot(list, none, AllRanks(none)).statistics.count) == 0


@pytest.mark.usefixtures("one_rank")
def test_a_reduction_is_used_again_and_again() -> None:
    reduce = AllRanks(rows())
    for _ in range(2):
        assert_same(take_snapshot(lambda: TENSORS, rows(), reduce), snapshot())


@pytest.mark.usefixtures("one_rank")
def test_counts_of_the_largest_tensors_stay_exact() -> None:
    large = SnapshotRows.of(["a"], [2**40], CPU)
    reduce = AllRanks(large)
    mine = take_snapshot(lambda: [torch.ones(3)], large, reduce)
    mine.counters.numbers.fill_(2**53 + 1)
    mine.statistics.count.fill_(2**53)
    reduce.reduce_counts(mine)
    assert set(mine.counters.numbers.tolist()) == {2**53 + 1}
    assert mine.statistics.count.tolist() == [2**53]


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ([2**31 - 1, 5], torch.int32),
        ([2**31, 5], torch.int64),
        ([5, None], torch.int64),
        ([], torch.int32),
    ],
)
def test_the_sizes_of_the_rows_choose_the_dtype(
    sizes: list[int | None], dtype: torch.dtype
) -> None:
    names = [str(row) for row in range(len(sizes))]
    assert AllRanks(SnapshotRows.of(names, sizes, CPU)).counts_dtype == dtype


def test_members_of_a_row_count_together_for_the_dtype() -> None:
    shared = SnapshotRows.of(["experts.*"] * 4, [2**29] * 4, CPU)
    assert AllRanks(shared).counts_dtype == torch.int64


@pytest.mark.parametrize(("least_piece", "pieces"), [(2**18, 1), (1, 16)])
def test_a_rank_that_failed_sends_zeros_and_says_so(
    monkeypatch: Any, least_piece: int, pieces: int
) -> None:
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, *_: sent.append(tensor.clone()))
    monkeypatch.setattr(reduction, "_LEAST_PIECE", least_piece)
    reduce = AllRanks(rows())
    found = []
    for mine in (take_snapshot(lambda: TENSORS, rows(), reduce), None):
        sent.clear()
        reduce.reduce_extremes(mine and mine.statistics)
        reduce.reduce_counts(mine)
        found.append([(len(tensor), tensor.dtype) for tensor in sent])
    assert found[0] == found[1]
    extremes, sums, *counters = sent
    assert len(counters) == pieces
    assert set(extremes.tolist()) == {-torch.inf}
    assert sums.tolist() == [0.0] * 20 + [1.0]
    assert torch.cat(counters).tolist() == [0] * (4 * BUCKET_COUNT + 4 * LINEAR_BUCKET_COUNT)


class Allocations(TorchDispatchMode):
    """Lists the operations whose result is memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        known = {
            tensor.untyped_storage()._cdata
            for tensor in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in known:
                self.found.append(str(func))
        return result


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("failed", [False, True])
def test_reducing_allocates_nothing(failed: bool) -> None:
    reduce = AllRanks(rows())
    mine = None if failed else take_snapshot(lambda: TENSORS, rows(), reduce)
    with Allocations() as allocations:
        reduce.reduce_extremes(mine and mine.statistics)
        reduce.reduce_counts(mine)
    assert allocations.found == []


@pytest.mark.parametrize(("count", "most"), [(100, 2**20 + 5_700), (50_000, 600 * 50_000)])
def test_memory_between_snapshots_is_bounded(count: int, most: int) -> None:
    many = SnapshotRows.of([str(n) for n in range(count)], [10**9] * count, CPU)
    held = [value for value in vars(AllRanks(many)).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in held) <= most


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("backend", ["auto", "plain"])
@pytest.mark.parametrize("is_sharded", [True, False])
def test_a_snapshot_takes_ten_kilobytes_per_row(
    monkeypatch: Any, is_sharded: bool, backend: Any
) -> None:
    count = 3_000
    many = SnapshotRows.of([str(n) for n in range(count)], [70_000] * count, CPU)
    reduce, made = AllRanks(many) if is_sharded else WholeTensors(), []
    original = counters.zeros

    def zeros(*arguments: Any) -> torch.Tensor:
        made.append(original(*arguments))
        return made[-1]

    for module in (counters, tensor_statistics):
        monkeypatch.setattr(module, "zeros", zeros)
    found = take_snapshot(lambda: [torch.ones(3)] * count, many, reduce, None, backend)
    all_counters, *parts = (tensor.nbytes for tensor in made)
    held = sum(value.nbytes for value in vars(reduce).values() if isinstance(value, torch.Tensor))
    beside = sum(
        value.nbytes for name, value in vars(found.statistics).items() if name != "buckets"
    )
    # A part is narrowed in a copy of half its size. The compiled reader needs none.
    assert all_counters + 1.5 * max(parts, default=0) + held + beside <= 10_000 * count


@pytest.mark.usefixtures("one_rank")
def test_a_sum_is_made_in_place() -> None:
    values = torch.ones(2, 3)
    reduce_sum(values)
    assert values.tolist() == [[1.0, 1.0, 1.0]] * 2
