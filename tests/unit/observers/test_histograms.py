"""What a snapshot found is shown, a histogram for each tensor or group of tensors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tbtrainer.run import RunWriter
from tbtrainer.sharding import parameter_table
from tbtrainer.statistics import LINEAR_MAX_ELEMENTS
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
