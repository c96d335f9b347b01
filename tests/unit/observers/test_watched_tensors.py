"""Snapshots are taken of tensors, and none without any."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbtrainer import TensorBoardArguments
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.observers.watched_tensors import WatchedTensors


@pytest.mark.parametrize("is_sharded", [False, True])
def test_without_tensors_no_snapshot_is_taken(is_sharded: bool) -> None:
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(),
        schedule=SnapshotSchedule(every=2, last=10),
        device=torch.device("cpu"),
        is_world_process_zero=True,
        snapshot_readers=[],
    )
    watched = WatchedTensors.of(training, ["parameters"], [], [], is_sharded)
    # Equal on every rank, as the names are: no rank reaches a collective.
    snapshot = watched.take("parameters", lambda: pytest.fail("there is nothing to measure"))
    assert snapshot is None
    assert watched.deferred("parameters", 2, snapshot) == []
