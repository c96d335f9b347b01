"""Under DDP one rank writes, and no rank trains differently."""

from pathlib import Path

import pytest

from tests.distributed.launch import launch
from tests.events import event_files, histograms, scalars


@pytest.fixture(scope="module", params=[(2, 1), (1, 2)], ids=["one node", "two nodes"])
def trained(request, tmp_path_factory) -> tuple[list[dict], Path]:
    processes, nodes = request.param
    directory = tmp_path_factory.mktemp("ddp")
    return launch(
        "training_modes.py", "ddp", str(directory), processes=processes, nodes=nodes
    ), directory


def test_the_mode_is_really_on(trained):
    verdicts, _ = trained
    assert [v["rank"] for v in verdicts] == [0, 1]
    assert {v["distributed_type"] for v in verdicts} == {"DistributedType.MULTI_CPU"}
    assert {v["wrapper"] for v in verdicts} == {"DistributedDataParallel"}


def test_the_training_is_unchanged_on_every_rank(trained):
    verdicts, _ = trained
    for verdict in verdicts:
        assert all(verdict["equal"].values()), verdict


def test_world_rank_zero_alone_writes_one_event_file(trained):
    verdicts, directory = trained
    assert [v["writer"] for v in verdicts] == ["RunWriter", "SilentWriter"]
    (file,) = event_files(directory / "node-0" / "ours")
    assert event_files(directory / "node-1") == []
    assert ("train/epoch", 10) in {(tag, step) for tag, step, _ in scalars(file)}


def test_ranks_of_other_nodes_stay_silent_although_they_should_log(trained):
    verdicts, directory = trained
    nodes = len(list(directory.glob("node-*")))
    assert sum(v["should_log"] for v in verdicts) == nodes


def test_histograms_are_of_whole_tensors_at_every_snapshot(trained):
    _, directory = trained
    (file,) = event_files(directory / "node-0" / "ours")
    shown = histograms(file)
    assert {step for _, step in shown} == {2, 4, 6, 8, 10}
    assert shown["gradients/classifier.weight", 4].count == 32
