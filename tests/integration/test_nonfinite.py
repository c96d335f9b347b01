"""NaN in one process: gradient accumulation, LoRA, parameters without a gradient, checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from tbtrainer import NonFiniteError, TBTrainingArguments
from tests.events import event_files, scalars
from tests.planting import EMBEDDING, NAMES, WEIGHT, Plant, PlantingTBTrainer, planted
from tests.tiny import Sequences, arguments, classifier, equal

BAD_STEP = 3


class WeightsBySteps(TrainerCallback):
    """Keeps copies of all weights, by step."""

    def __init__(self) -> None:
        self.copies: dict[int, dict[str, Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Keeps those after the step."""
        self.copies[state.global_step] = copied(model)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def trainer_in(
    directory: Path, plant: Plant, action: str, model: nn.Module | None = None, **changes: Any
) -> Any:
    """A trainer of five steps that plants."""
    values: dict[str, Any] = {"max_steps": 5, "telemetry_errors": "raise", **changes}
    args = arguments(TBTrainingArguments, directory, nonfinite_action=action, **values)
    return planted(PlantingTBTrainer, args, plant, **({} if model is None else {"model": model}))


def reports_in(directory: Path) -> list[dict[str, Any]]:
    """The lines of the run's `health.jsonl`; none if there is no such file."""
    files = directory.rglob("health.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def trained(
    directory: Path, plant: Plant, action: str = "stop", **changes: Any
) -> tuple[dict[str, Any], bool]:
    """Trains; returns the first report, and whether the weights are those of the step before."""
    made = trainer_in(directory, plant, action, **changes)
    weights = WeightsBySteps()
    made.add_callback(weights)
    made.train()
    kept = equal(copied(made.model), weights.copies[plant.step - 1])
    return reports_in(directory)[0], kept


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_bad_micro_batch_is_found(tmp_path: Path, micro_batch: int) -> None:
    plant = Plant("batch", BAD_STEP, micro_batch=micro_batch)
    report, kept = trained(tmp_path, plant, gradient_accumulation_steps=2)
    assert (report["bad_step"], report["first_module"]) == (BAD_STEP, EMBEDDING)
    assert report["bad_gradients"] == NAMES
    assert kept


def test_a_bad_micro_batch_is_counted_as_one_step(tmp_path: Path) -> None:
    plant = Plant("loss", BAD_STEP)
    trainer_in(tmp_path, plant, "log", gradient_accumulation_steps=2).train()
    (file,) = event_files(tmp_path)
    counts = [v for tag, _, v in scalars(file) if tag == "health/nonfinite_losses"]
    assert counts[:2] == [0, 1]


def with_lora(plant: Plant) -> tuple[nn.Module, str]:
    """A classifier with adapters, and the name of the layer that `plant` plants into."""
    model = get_peft_model(classifier(), LoraConfig(target_modules=["query", "value"], r=3))
    name = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.default"
    plant.into(model.get_submodule(name))
    return model, name


def test_the_adapter_with_a_bad_gradient_is_named(tmp_path: Path) -> None:
    plant = Plant("gradient", BAD_STEP)
    model, layer = with_lora(plant)
    report, kept = trained(tmp_path, plant, model=model)
    assert report["bad_gradients"] == [f"{layer}.weight"]
    assert kept


def test_the_adapter_with_a_bad_output_is_named(tmp_path: Path) -> None:
    plant = Plant("activation", BAD_STEP)
    model, layer = with_lora(plant)
    report, kept = trained(tmp_path, plant, model=model)
    assert report["first_module"] == layer
    assert kept


def with_a_branch(plant: Plant, every: int) -> nn.Module:
    """A classifier with a layer that takes part in every second step, or in every third."""
    model = plant.model()
    model.branch = nn.Linear(16, 16)
    joined = model.dropout.forward

    def output_of(x: Tensor) -> Tensor:
        output = joined(x)
        return output + model.branch(x) if plant.step_now % every == 0 else output

    model.dropout.forward = output_of
    return model


@pytest.mark.parametrize(("every", "names"), [(2, []), (3, ["branch.weight", "branch.bias"])])
def test_parameters_without_a_gradient_are_not_named(
    tmp_path: Path, every: int, names: list[str]
) -> None:
    plant = Plant("activation", BAD_STEP)
    report, kept = trained(tmp_path, plant, model=with_a_branch(plant, every))
    assert report["bad_gradients"] == [*NAMES, *names]
    assert kept


@pytest.mark.parametrize("action", ["log", "stop"])
def test_a_lasting_cause_is_reported_once(tmp_path: Path, action: str) -> None:
    trainer_in(tmp_path, Plant("loss", 1, lasts=True), action).train()
    assert [report["bad_step"] for report in reports_in(tmp_path)] == [1]


def test_a_checkpoint_of_the_refused_step_has_good_weights(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": BAD_STEP}
    _, kept = trained(tmp_path, Plant("activation", BAD_STEP), **saving)
    assert kept
    checkpoint = get_last_checkpoint(str(tmp_path))
    assert checkpoint is not None
    resumed = trainer_in(tmp_path, Plant(), "stop", **saving)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 5
    assert all(weight.isfinite().all() for weight in resumed.model.parameters())


def test_a_caught_error_leaves_a_model_that_trains(tmp_path: Path) -> None:
    made = trainer_in(tmp_path, Plant("gradient", BAD_STEP), "raise")
    with pytest.raises(NonFiniteError) as caught:
        made.train()
    assert list(caught.value.report["bad_gradients"]) == [WEIGHT]
    made.plant.scene = None
    made.train()
    assert made.state.global_step == 5
    assert all(weight.isfinite().all() for weight in made.model.parameters())


def test_the_dataset_of_a_bad_evaluation_is_named(tmp_path: Path) -> None:
    data = {"good": Sequences(16, seed=1), "bad": Plant("evaluation").evaluation_data()}
    made = trainer_in(tmp_path, Plant(), "log", eval_strategy="steps", eval_steps=2)
    made.eval_dataset = data
    made.train()
    assert [report["dataset"] for report in reports_in(tmp_path)] == ["bad"]
    (file,) = event_files(tmp_path)
    shown = {(tag, step): value for tag, step, value in scalars(file)}
    assert shown["health/nonfinite_eval_batches/bad", 2] == 1
    assert shown["health/nonfinite_eval_batches/good", 2] == 0
