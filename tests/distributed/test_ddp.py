"""Under DDP one rank writes, and no rank trains differently."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.events import event_files, histograms, scalars

Trained = tuple[list[dict[str, Any]], Path]


@pytest.fixture(scope="module", params=[(2, 1), (1, 2)], ids=["one node", "two nodes"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The verdicts of both ranks, and the directory of their output."""
    processes, nodes = request.param
    directory = tmp_path_factory.mktemp("ddp")
    return launch(
        "training_modes.py", "ddp", str(directory), processes=processes, nodes=nodes
    ), directory


def test_the_mode_is_really_on(trained: Trained) -> None:
    verdicts, _ = trained
    assert [v["rank"] for v in verdicts] == [0, 1]
    assert {v["distributed_type"] for v in verdicts} == {"DistributedType.MULTI_CPU"}
    assert {v["wrapper"] for v in verdicts} == {"DistributedDataParallel"}


def test_the_training_is_unchanged_on_every_rank(trained: Trained) -> None:
    verdicts, _ = trained
    assert [set(verdict["equal"].values()) for verdict in verdicts] == [{True}, {True}], verdicts


def test_world_rank_zero_alone_writes_one_event_file(trained: Trained) -> None:
    verdicts, directory = trained
    assert [v["writer"] for v in verdicts] == ["RunWriter", "SilentWriter"]
    (file,) = event_files(directory / "node-0" / "ours")
    assert event_files(directory / "node-1") == []
    assert ("train/epoch", 10) in {(tag, step) for tag, step, _ in scalars(file)}


def test_one_rank_of_every_node_should_log(trained: Trained) -> None:
    verdicts, directory = trained
    nodes = len(list(directory.glob("node-*")))
    assert sum(v["should_log"] for v in verdicts) == nodes


def test_histograms_are_of_whole_tensors_at_every_snapshot(trained: Trained) -> None:
    _, directory = trained
    (file,) = event_files(directory / "node-0" / "ours")
    shown = histograms(file)
    assert {step for _, step in shown} == set(range(1, 11))
    assert shown["gradients/classifier.weight", 4].count == 32
