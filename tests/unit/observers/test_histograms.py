"""What a snapshot found is shown, a histogram for each tensor or group of tensors."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments
from tbtrainer.observers import watched_tensors as module
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.observers.snapshot_records import histogram_records
from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.statistics import LINEAR_MAX_ELEMENTS, SnapshotRows, WholeTensors, take_snapshot
from tests.counted_reduction import CountedReduction
from tests.events import event_files, histograms
from tests.recorder import Recorder

CPU = torch.device("cpu")


class Experts(nn.Module):
    """Forty layers of thirty experts, as in a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(3, 2, False) for _ in range(30))})
            for _ in range(40)
        )


def written(model: nn.Module, target: str, directory: Path, detail: str) -> dict[str, int]:
    """Elements counted, by tag."""
    table = parameter_table(model, is_world_process_zero=True)
    writer = RunWriter(str(directory))
    recorder = Recorder(table, writer, CPU, histogram_detail=detail, histogram_targets=[target])
    recorder.gradients(1, table.gradients())
    recorder.parameters(1)
    recorder.close()
    writer.close()
    (file,) = event_files(directory)
    return {tag: int(histogram.count) for (tag, _), histogram in histograms(file).items()}


@pytest.mark.parametrize("detail", ["auto", "block"])
def test_experts_of_a_layer_share_a_histogram(tmp_path: Path, detail: str) -> None:
    found = written(Experts(), "parameters", tmp_path, detail)
    assert found == {f"parameters/layers.{n}.experts.*.weight": 30 * 6 for n in range(40)}


def test_every_expert_is_shown_where_asked_for(tmp_path: Path) -> None:
    found = written(Experts(), "parameters", tmp_path, "parameter")
    assert len(found) == 1200
    assert set(found.values()) == {6}


def test_experts_without_a_gradient_are_not_counted(tmp_path: Path) -> None:
    model = Experts()
    for number in (3, 8):
        expert = model.layers[5]["experts"][number]
        expert.weight.grad = torch.ones_like(expert.weight)
    found = written(model, "gradients", tmp_path, "auto")
    assert found == {"gradients/layers.5.experts.*.weight": 12}


def test_a_small_model_keeps_a_histogram_per_parameter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, LINEAR_MAX_ELEMENTS))
    found = written(model, "parameters", tmp_path, "auto")
    assert set(found) == {f"parameters/{name}" for name, _ in model.named_parameters()}


def test_the_default_device_of_torch_does_not_matter(tmp_path: Path) -> None:
    model = nn.Linear(300, 200)
    torch.set_default_device("meta")
    try:
        found = written(model, "parameters", tmp_path, "auto")
    finally:
        torch.set_default_device(None)
    assert found == {"parameters/weight": 60_000, "parameters/bias": 200}


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> Histograms:
    """An observer that has begun a training whose tensors count as sharded."""
    monkeypatch.setattr(PlainAdapter, "is_sharded", True)
    monkeypatch.setattr(module, "AllRanks", CountedReduction)
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(),
        parameters=parameter_table(nn.Linear(3, 2), is_world_process_zero=True),
        schedule=SnapshotSchedule(every=2, last=10),
        device=CPU,
        is_world_process_zero=True,
        snapshot_readers=[],
    )
    observer = Histograms()
    observer.run_begins(0, training)
    return observer


def reached(observer: Histograms) -> list[tuple[str, bool]]:
    assert observer._watched is not None
    assert isinstance(observer._watched.tensors.reduction, CountedReduction)
    return observer._watched.tensors.reduction.reached


def test_gradients_that_could_not_be_read_reach_both_reductions(sharded: Histograms) -> None:
    with pytest.raises(RuntimeError, match="gradients could not be read"):
        sharded.gradients_ready(2, None)
    assert reached(sharded) == [("extremes", False), ("counts", False)]


def test_a_step_that_is_not_due_reaches_no_reduction(sharded: Histograms) -> None:
    assert sharded.gradients_ready(3, None) == []
    assert sharded.step_taken(3) == []
    assert reached(sharded) == []


def test_a_gradient_that_fails_to_be_measured_reaches_both_reductions(sharded: Histograms) -> None:
    too_few = Gradients([torch.ones(6)], None)
    with pytest.raises((IndexError, ValueError)):
        sharded.gradients_ready(2, too_few)
    assert reached(sharded) == [("extremes", False), ("counts", False)]


def test_the_last_parameters_are_shown_once(sharded: Histograms) -> None:
    assert len(sharded.step_taken(10)) == 1
    assert sharded.run_ends(10) == []
    assert reached(sharded) == [("extremes", True), ("counts", True)]


def test_a_closed_observer_shows_nothing(sharded: Histograms) -> None:
    sharded.close()
    assert sharded.step_taken(2) == []
    assert sharded.run_ends(2) == []


@pytest.mark.parametrize(
    ("failed_ranks", "level", "message"),
    [
        (1, logging.WARNING, "1 rank(s) could not measure"),
        (0, logging.ERROR, "because of a bug in tbtrainer"),
    ],
)
def test_an_incomplete_histogram_is_left_out_and_reported(
    failed_ranks: int, level: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = SnapshotRows.of(["whole", "half"], [4, 4], CPU)
    snapshot = take_snapshot(lambda: [torch.ones(4), torch.ones(2)], rows, WholeTensors())
    snapshot.failed_ranks.fill_(failed_ranks)
    with caplog.at_level(logging.WARNING):
        records = histogram_records("gradients", 7, snapshot, 64)
    assert [record.tag for record in records] == ["gradients/whole"]
    (logged,) = caplog.records
    assert logged.levelno == level
    assert message in logged.getMessage()


@pytest.mark.parametrize(
    "every, dtypes", [(1, [{torch.bfloat16, torch.float32}]), (0, [])], ids=["some", "never"]
)
def test_kernels_are_prepared_when_the_run_begins(
    monkeypatch: pytest.MonkeyPatch, every: int, dtypes: list[set[torch.dtype]]
) -> None:
    prepared: list[set[torch.dtype]] = []
    monkeypatch.setattr(module, "prepare", lambda found, device: prepared.append(found))
    training: Any = SimpleNamespace(
        arguments=TensorBoardArguments(),
        parameters=parameter_table(nn.Linear(3, 2).bfloat16(), is_world_process_zero=True),
        schedule=SnapshotSchedule(every=every, last=5),
        device=CPU,
        is_world_process_zero=True,
    )
    Histograms().run_begins(0, training)
    assert prepared == dtypes
