"""Optimizer states reach the same collectives on every rank, whatever a rank holds."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments
from tbtrainer.observers import optimizer_state as module
from tbtrainer.observers import watched_tensors
from tbtrainer.observers.optimizer_state import OptimizerState
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.sharding import parameter_table
from tbtrainer.sharding.optimizer_states import OptimizerStates, StateNames
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import SnapshotRows, WholeTensors

reached: list[str] = []


class Counted(WholeTensors):
    """A reduction that keeps which of the two collectives of a snapshot this rank reached."""

    def __init__(self, rows: SnapshotRows, sums_beside: bool = False) -> None:
        reached.clear()

    def reduce_extremes(self, statistics: Any) -> None:
        reached.append("extremes" if statistics is not None else "no extremes")

    def reduce_counts(self, snapshot: Any) -> None:
        reached.append("counts" if snapshot is not None else "no counts")


class OtherRank:
    """An exchange with a rank that holds the moments of Adam from the second due step on."""

    def __init__(self) -> None:
        self.calls = 0

    def of_all_ranks(self, own: StateNames) -> StateNames:
        reached.append("names")
        self.calls += 1
        other = StateNames(("exp_avg", "exp_avg_sq")) if self.calls > 1 else StateNames()
        return StateNames.of_all([own, other])


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> OptimizerState:
    """An observer of a training whose tensors count as sharded, with an optimizer without state."""
    monkeypatch.setattr(PlainAdapter, "is_sharded", True)
    monkeypatch.setattr(watched_tensors, "AllRanks", Counted)
    monkeypatch.setattr(module, "StateNameExchange", OtherRank)
    model = nn.Linear(3, 2)
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(histogram_targets=["optimizer_state"]),
        optimizer=torch.optim.AdamW(model.parameters()),
        parameters=parameter_table(model, is_world_process_zero=True),
        schedule=SnapshotSchedule(every=2, last=10),
        device=torch.device("cpu"),
        is_world_process_zero=True,
        was_step_skipped=False,
        snapshot_readers=[],
    )
    observer = OptimizerState()
    observer.run_begins(0, training)
    return observer


def fail(*_: Any) -> Any:
    raise MemoryError("no memory")


def test_names_are_exchanged_until_some_rank_has_a_state(sharded: OptimizerState) -> None:
    for step in range(1, 7):
        sharded.step_taken(step)
    snapshot = ["extremes", "counts"]
    # At step 2 no rank has a state; at step 4 the other one has two, and this one none.
    assert reached == ["names", "names", *snapshot * 2, *snapshot * 2]


def test_names_that_fail_reach_all_collectives(
    sharded: OptimizerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OptimizerStates, "names", fail)
    for step in (2, 4):
        with pytest.raises(MemoryError, match="no memory"):
            sharded.step_taken(step)
    assert reached == ["names", "names", *["extremes", "counts"] * 2]


def test_states_that_fail_reach_all_collectives(
    sharded: OptimizerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded.step_taken(2)
    monkeypatch.setattr(OptimizerStates, "parts", fail)
    with pytest.raises(MemoryError, match="no memory"):
        sharded.step_taken(4)
    assert reached == ["names", "names", *["no extremes", "no counts"] * 2]


def test_a_step_that_is_not_due_reaches_no_collective(sharded: OptimizerState) -> None:
    assert sharded.step_taken(3) == []
    assert reached == []


def test_a_training_that_ended_is_released(sharded: OptimizerState) -> None:
    sharded.close()
    assert sharded.step_taken(2) == []
    assert reached == []
