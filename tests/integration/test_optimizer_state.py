"""The states of the optimizer are shown as they are after each step, and nothing changes by it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import Histogram, event_files, histograms
from tests.tiny import arguments, classifier, equal, trainer

MOMENTS = {"exp_avg", "exp_avg_sq"}
Shown = dict[tuple[str, int], Histogram]


class StoredStates(TrainerCallback):
    """Keeps the tensors of the optimizer's state after each step, by tag."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.after[state.global_step + 1] = {
            f"optimizer_state/{key}/{name}": held.clone()
            for name, parameter in kwargs["model"].named_parameters()
            for key, held in optimizer.state.get(parameter, {}).items()
            if isinstance(held, torch.Tensor)
        }


def trained(directory: Path, model: nn.Module | None = None, **changes: Any) -> Any:
    """Trains ten steps; returns the stored states, the histograms and the trainer."""
    values = {"histogram_targets": ["optimizer_state"], "telemetry_errors": "raise"}
    optimizers = changes.pop("optimizers", (None, None))
    args = arguments(TBTrainingArguments, directory, histogram_steps=4, **{**values, **changes})
    stored = StoredStates()
    model = model or classifier()
    made = trainer(TBTrainer, args, model=model, callbacks=[stored], optimizers=optimizers)
    made.train()
    (file,) = event_files(directory)
    return stored, histograms(file), made


def states_of(shown: Shown) -> set[str]:
    """The names of the states that are shown."""
    return {tag.split("/")[1] for tag, _ in shown}


def assert_shows(stored: StoredStates, shown: Shown) -> None:
    """Every histogram is that of the stored state of the same step."""
    assert {step for _, step in shown} == {4, 8, 10}
    for (tag, step), histogram in shown.items():
        state = stored.after[step][tag].double()
        assert histogram.count == state.numel() == histogram.counts.sum()
        assert histogram.minimum == state.min()
        assert histogram.maximum == state.max()
        assert histogram.sum_of_squares == pytest.approx(float(state.square().sum()), rel=1e-6)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of optimizer states."""
    return [m for r in caplog.records if "ptimizer state" in (m := r.getMessage())]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"optim": "adamw_torch"}, MOMENTS),
        ({"optim": "adamw_torch_fused"}, MOMENTS),
        ({"optim": "adamw_torch", "gradient_accumulation_steps": 2}, MOMENTS),
        ({"optim": "sgd", "optim_args": "momentum=0.9"}, {"momentum_buffer"}),
        ({"optim": "rmsprop"}, {"square_avg"}),
        ({"optim": "adagrad"}, {"sum"}),
    ],
    ids=["adamw", "fused", "accumulated", "sgd", "rmsprop", "adagrad"],
)
def test_every_state_of_every_parameter_is_shown(
    changes: dict[str, Any], names: set[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored, shown, made = trained(tmp_path, **changes)
    assert_shows(stored, shown)
    assert states_of(shown) == names
    assert len(shown) == 3 * len(names) * len(list(made.model.parameters()))
    assert warnings_of(caplog) == []


def test_bfloat16_states_are_shown(tmp_path: Path) -> None:
    stored, shown, _ = trained(tmp_path, classifier().to(torch.bfloat16))
    assert_shows(stored, shown)
    assert states_of(shown) == MOMENTS


def test_factored_states_are_left_out_with_one_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored, shown, _ = trained(tmp_path, optim="adafactor")
    assert_shows(stored, shown)
    # Adafactor factors the states of matrices only.
    assert states_of(shown) == {"exp_avg_sq"}
    assert all("bias" in tag or "LayerNorm" in tag for tag, _ in shown)
    (message,) = warnings_of(caplog)
    assert "exp_avg_sq_col, exp_avg_sq_row" in message
    assert "another shape than the parameter" in message


class EightBit(torch.optim.SGD):
    """Keeps a state of whole numbers for matrices, as bitsandbytes does for large parameters."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                dtype = torch.uint8 if parameter.dim() > 1 else torch.float32
                self.state[parameter]["state1"] = torch.ones(parameter.shape, dtype=dtype)
        return result


def test_quantised_states_are_left_out_with_one_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier()
    optimizer = EightBit(model.parameters(), lr=0.1)
    stored, shown, _ = trained(tmp_path, model, optimizers=(optimizer, None))
    assert_shows(stored, shown)
    assert len(shown) == 3 * sum(p.dim() == 1 for p in model.parameters())
    (message,) = warnings_of(caplog)
    assert "torch.uint8, as of a quantised state: state1" in message


def test_an_optimizer_without_state_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"optim": "sgd", "histogram_targets": ["parameters", "optimizer_state"]}
    _, shown, _ = trained(tmp_path, **values)
    assert {tag.split("/")[0] for tag, _ in shown} == {"parameters"}
    (message,) = warnings_of(caplog)
    assert "because SGD has none" in message


def test_frozen_parameters_have_no_state(tmp_path: Path) -> None:
    lora = get_peft_model(classifier(), LoraConfig(target_modules=["query"], r=2))
    stored, shown, _ = trained(tmp_path, lora)
    assert_shows(stored, shown)
    trained_names = {n for n, p in lora.named_parameters() if p.requires_grad}
    assert {tag.split("/", 2)[2] for tag, _ in shown} == trained_names


def test_names_of_parameters_choose_the_states(tmp_path: Path) -> None:
    _, shown, _ = trained(tmp_path, histogram_include=["query"], histogram_exclude=["bias"])
    assert {tag.split("/", 2)[2] for tag, _ in shown} == {
        f"bert.encoder.layer.{n}.attention.self.query.weight" for n in (0, 1)
    }


class LayerWiseDummyOptimizer(torch.optim.SGD):
    """Is called like that of transformers whose steps are taken in the backward pass."""


def test_layerwise_optimizers_are_left_out_with_one_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier()
    optimizer = LayerWiseDummyOptimizer(model.parameters(), lr=0.1, momentum=0.9)
    values = {"histogram_targets": ["parameters", "optimizer_state"]}
    _, shown, _ = trained(tmp_path, model, optimizers=(optimizer, None), **values)
    assert {tag.split("/")[0] for tag, _ in shown} == {"parameters"}
    (message,) = warnings_of(caplog)
    assert "because LayerWiseDummyOptimizer keeps" in message


def test_a_resumed_training_shows_its_states(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 5}
    trained(tmp_path, max_steps=5, **changes)
    args = arguments(
        TBTrainingArguments, tmp_path, histogram_steps=4, histogram_targets=["optimizer_state"]
    )
    stored = StoredStates()
    made = trainer(TBTrainer, args, model=classifier(), callbacks=[stored])
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    shown = histograms(event_files(tmp_path)[-1])
    assert {step for _, step in shown} == {8, 10}
    for (tag, step), histogram in shown.items():
        assert histogram.maximum == stored.after[step][tag].double().max()


def test_states_at_every_step_change_no_bit(tmp_path: Path) -> None:
    stock = trainer(Trainer, arguments(TrainingArguments, tmp_path / "stock"))
    stock.train()
    values = {"histogram_steps": 1, "histogram_targets": ["optimizer_state"]}
    ours = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path / "ours", **values))
    ours.train()
    assert equal(stock.model.state_dict(), ours.model.state_dict())
    assert equal(stock.optimizer.state_dict(), ours.optimizer.state_dict())
    # A state that was only looked at has not been made.
    assert len(stock.optimizer.state) == len(ours.optimizer.state)
