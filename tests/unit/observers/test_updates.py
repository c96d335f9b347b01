"""Updates reach the same collectives on every rank, and have curves where these are known."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments
from tbtrainer.observers import updates as module
from tbtrainer.observers import watched_tensors
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.observers.updates import Updates, update_curves
from tbtrainer.sharding import parameter_table
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import SnapshotRows, WholeTensors, take_snapshot
from tests.counted_reduction import CountedReduction

CPU = torch.device("cpu")


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> Updates:
    """An observer that has begun a training whose tensors count as sharded."""
    monkeypatch.setattr(PlainAdapter, "is_sharded", True)
    monkeypatch.setattr(watched_tensors, "AllRanks", CountedReduction)
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(histogram_targets=["updates"]),
        optimizer=None,
        parameters=parameter_table(nn.Linear(3, 2), is_world_process_zero=True),
        schedule=SnapshotSchedule(every=2, last=10),
        device=CPU,
        is_world_process_zero=True,
        snapshot_readers=[],
    )
    observer = Updates(Histograms())
    observer.run_begins(0, training)
    return observer


def reached(observer: Updates) -> list[tuple[str, bool]]:
    assert observer._watched is not None
    assert isinstance(observer._watched.tensors.reduction, CountedReduction)
    return observer._watched.tensors.reduction.reached


def fail(*_: Any) -> Any:
    raise MemoryError("no memory")


def test_a_due_step_reaches_both_reductions(sharded: Updates) -> None:
    sharded.gradients_ready(2, None)
    assert len(sharded.step_taken(2)) == 1
    assert reached(sharded) == [("extremes", True), ("counts", True)]


def test_a_step_that_is_not_due_reaches_no_reduction(sharded: Updates) -> None:
    sharded.gradients_ready(3, None)
    assert sharded.step_taken(3) == []
    assert reached(sharded) == []


def test_a_step_without_gradients_reaches_no_reduction(sharded: Updates) -> None:
    assert sharded.step_taken(2) == []
    assert reached(sharded) == []


def test_a_copy_that_fails_reaches_both_reductions(
    sharded: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.TensorCopies, "of", fail)
    sharded.gradients_ready(2, None)
    with pytest.raises(MemoryError, match="no memory"):
        sharded.step_taken(2)
    assert reached(sharded) == [("extremes", False), ("counts", False)]


def test_squares_that_fail_reach_both_reductions(
    sharded: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.TensorNorms, "into", fail)
    sharded.gradients_ready(2, None)
    with pytest.raises(MemoryError, match="no memory"):
        sharded.step_taken(2)
    assert reached(sharded) == [("extremes", False), ("counts", False)]


def curves(updates: list[torch.Tensor], squares: list[float] | None, sizes: list[int]) -> Any:
    names = [f"block.{n}.weight" for n in range(len(updates))]
    rows = SnapshotRows.of(names, sizes, CPU)
    beside = None if squares is None else torch.tensor(squares, dtype=torch.float64)
    snapshot = take_snapshot(
        lambda: updates, rows, WholeTensors(), beside=None if beside is None else lambda: beside
    )
    return {record.tag: record.value for record in update_curves("updates", 1, snapshot)}


def test_ratio_and_share_are_those_of_the_block() -> None:
    found = curves([torch.tensor([0.0, 3.0, 0.0, 4.0])], [400.0], [4])
    assert found == {"update_ratio/block.0": 0.25, "update_unchanged/block.0": 0.5}


@pytest.mark.parametrize("squares", [None, [0.0], [math.nan], [math.inf]])
def test_a_ratio_to_an_unknown_norm_is_left_out(squares: list[float] | None) -> None:
    assert curves([torch.ones(4)], squares, [4]) == {"update_unchanged/block.0": 0.0}


def test_an_update_with_nan_has_no_ratio() -> None:
    found = curves([torch.tensor([0.0, math.nan])], [1.0], [2])
    assert found == {"update_unchanged/block.0": 0.5}


def test_a_block_that_is_not_whole_has_no_curves() -> None:
    found = curves([torch.ones(2), torch.ones(4)], [1.0, 1.0], [4, 4])
    assert found == {"update_ratio/block.1": 2.0, "update_unchanged/block.1": 0.0}
