from collections.abc import Callable, Iterator
from dataclasses import replace
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
    take_snapshot,
)

CPU = torch.device("cpu")
TENSORS = [torch.randn(70), None, torch.tensor([0.0, torch.nan]), torch.randn(70_000)]


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rows() -> SnapshotRows:
    return SnapshotRows.of(list("abcd"), [70, 3, 2, 70_000], CPU)


def snapshot() -> Snapshot:
    return take_snapshot(lambda: TENSORS, rows(), WholeTensors())


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    for name, values in vars(expected.statistics).items():
        assert torch.equal(getattr(found.statistics, name), values), name
    assert torch.equal(found.linear, expected.linear)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("most_sent", [2**23, 8213, 1000])
def test_a_snapshot_of_one_rank_is_its_own(monkeypatch: Any, most_sent: int) -> None:
    monkeypatch.setattr(reduction, "_MOST_SENT", most_sent)
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
    mine = snapshot()
    largest = replace(mine, linear=torch.full_like(mine.linear, 2**53))
    AllRanks(rows()).reduce_counts(largest)
    assert set(largest.linear.flatten().tolist()) == {2**53}


@pytest.mark.parametrize("most_sent", [2**23, 1000])
def test_a_rank_that_failed_sends_zeros_and_says_so(monkeypatch: Any, most_sent: int) -> None:
    sent: list[torch.Tensor] = []
    for name in ("all_reduce", "reduce"):
        monkeypatch.setattr(dist, name, lambda tensor, *_: sent.append(tensor.clone()))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(reduction, "_MOST_SENT", most_sent)
    reduce = AllRanks(rows())
    for mine in (snapshot(), None):
        sent.clear()
        reduce.reduce_extremes(mine and mine.statistics)
        reduce.reduce_counts(mine)
        sizes = [len(tensor) for tensor in sent]
        assert sum(sizes[1:]) == 4 * (5 + BUCKET_COUNT) + 3 * LINEAR_BUCKET_COUNT + 1
    extremes, *counts = sent
    assert set(extremes.tolist()) == {-torch.inf}
    (*numbers, failed) = torch.cat(counts).tolist()
    assert set(numbers) == {0.0}
    assert failed == 1.0


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
    reduce, mine = AllRanks(rows()), None if failed else snapshot()
    with Allocations() as allocations:
        reduce.reduce_extremes(mine and mine.statistics)
        reduce.reduce_counts(mine)
    assert allocations.found == []


def test_memory_between_snapshots_is_bounded() -> None:
    many = SnapshotRows.of([str(n) for n in range(50_000)], [10**9] * 50_000, CPU)
    reduce = AllRanks(many)
    held = [value for value in vars(reduce).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in held) <= 2**26 + 2**20


@pytest.mark.usefixtures("one_rank")
def test_a_sum_is_made_in_place() -> None:
    values = torch.ones(2, 3)
    reduce_sum(values)
    assert values.tolist() == [[1.0, 1.0, 1.0]] * 2
