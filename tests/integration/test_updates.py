"""What an optimizer step did is shown: exactly, for any optimizer, and nothing changes by it."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.statistics import TensorCopies, differences
from tests.events import Histogram, event_files, histograms, scalars
from tests.planting import Plant, PlantingTBTrainer, planted
from tests.tiny import Sequences, arguments, classifier, equal, trainer

Weights = dict[str, torch.Tensor]
BLOCKS = {"bert.encoder.layer.0", "bert.encoder.layer.1", "classifier"}


class Stored(TrainerCallback):
    """Keeps the weights before and after each optimizer step, as the loop shows them."""

    def __init__(self) -> None:
        self.before: dict[int, Weights] = {}
        self.after: dict[int, Weights] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before[state.global_step + 1] = weights(kwargs["model"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after[state.global_step + 1] = weights(kwargs["model"])


def weights(model: nn.Module) -> Weights:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def trained(
    directory: Path, model: nn.Module | None = None, **changes: Any
) -> tuple[Stored, dict[tuple[str, int], Histogram], dict[tuple[str, int], float]]:
    optimizers = changes.pop("optimizers", (None, None))
    values = {"histogram_targets": ["updates"], "telemetry_errors": "raise", **changes}
    args = arguments(TBTrainingArguments, directory, histogram_steps=4, **values)
    stored = Stored()
    made = trainer(
        TBTrainer, args, model=model or classifier(), callbacks=[stored], optimizers=optimizers
    )
    made.train()
    (file,) = event_files(directory)
    curves = {(tag, step): value for tag, step, value in scalars(file) if tag.startswith("update_")}
    return stored, histograms(file), curves


def assert_shows_the_steps(
    stored: Stored,
    shown: dict[tuple[str, int], Histogram],
    curves: dict[tuple[str, int], float],
) -> None:
    names = set(stored.before[4])
    assert {key for key in shown if key[0].startswith("updates/")} == {
        (f"updates/{name}", step) for name in names for step in (4, 8, 10)
    }
    for step in (4, 8, 10):
        update = {n: stored.after[step][n].float() - stored.before[step][n].float() for n in names}
        for name in names:
            histogram, difference = shown[f"updates/{name}", step], update[name].double()
            assert histogram.count == difference.numel() == histogram.counts.sum()
            assert histogram.minimum == difference.min()
            assert histogram.maximum == difference.max()
            assert histogram.sum_of_squares == pytest.approx(
                float(difference.square().sum()), rel=1e-6
            )
        for block in BLOCKS:
            own = [n for n in names if n.startswith(f"{block}.")]
            changes = torch.cat([update[n].double().flatten() for n in own])
            values = torch.cat([stored.after[step][n].double().flatten() for n in own])
            ratio = float(changes.square().mean().sqrt() / values.square().mean().sqrt())
            assert curves[f"update_ratio/{block}", step] == pytest.approx(ratio, rel=1e-6)
            unchanged = float((changes == 0).double().mean())
            assert curves[f"update_unchanged/{block}", step] == pytest.approx(unchanged, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2, "histogram_targets": ["parameters", "updates"]},
        {"optim": "sgd", "learning_rate": 0.1},
        {"optim": "adafactor"},
        {"optim": "adamw_torch_fused"},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=["adamw", "with parameters, accumulated", "sgd", "adafactor", "fused", "compiled"],
)
def test_updates_are_the_differences_of_stored_weights(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    stored, shown, curves = trained(tmp_path, **changes)
    assert_shows_the_steps(stored, shown, curves)
    assert all(stored.after[4][n].ne(stored.before[4][n]).any() for n in stored.after[4])


def test_bfloat16_shows_what_it_rounds_away(tmp_path: Path) -> None:
    model = classifier().to(torch.bfloat16)
    stored, shown, curves = trained(tmp_path, model, learning_rate=1e-4)
    assert_shows_the_steps(stored, shown, curves)
    # 1e-4 is less than half of the distance between bfloat16 numbers above 0.05.
    assert 0.01 < curves["update_unchanged/bert.encoder.layer.0", 4] < 1


def test_a_skipped_step_leaves_everything_unchanged(tmp_path: Path) -> None:
    values = {"histogram_targets": ["updates"], "nonfinite_action": "stop", "histogram_steps": 3}
    args = arguments(TBTrainingArguments, tmp_path, telemetry_errors="raise", **values)
    planted(PlantingTBTrainer, args, Plant("gradient", step=3)).train()
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    assert {step for _, step in shown} == {3}
    assert all(h.count > 0 and h.minimum == h.maximum == 0 for h in shown.values())
    curves = {tag: value for tag, _, value in scalars(file)}
    assert curves["update_ratio/classifier"] == 0
    assert curves["update_unchanged/classifier"] == 1


def test_frozen_weights_have_no_updates(tmp_path: Path) -> None:
    lora = get_peft_model(classifier(), LoraConfig(target_modules=["query"], r=2))
    _, shown, curves = trained(tmp_path, lora)
    names = {tag for tag, _ in shown}
    assert names == {f"updates/{n}" for n, p in lora.named_parameters() if p.requires_grad}
    assert {tag for tag, _ in curves if tag.startswith("update_unchanged/")} == {
        f"update_unchanged/base_model.model.bert.encoder.layer.{n}" for n in (0, 1)
    }


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref]]:
    """References to every copy that is made of the parameters."""
    made: list[weakref.ref] = []
    of = TensorCopies.of

    def kept(tensors: Any) -> TensorCopies:
        result = of(tensors)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(TensorCopies, "of", kept)
    yield made


class AtEachForward(TBTrainer):
    """Counts the copies that are alive when a forward pass begins."""

    def __init__(self, copies: list[weakref.ref], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copies, self.alive = copies, 0

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        gc.collect()
        self.alive += sum(copy() is not None for copy in self.copies)
        return super().compute_loss(*args, **kwargs)


def test_copies_exist_during_due_steps_only(tmp_path: Path, copies: list[weakref.ref]) -> None:
    args = arguments(
        TBTrainingArguments, tmp_path, histogram_steps=4, histogram_targets=["updates"]
    )
    made = AtEachForward(copies, args=args, model=classifier(), train_dataset=Sequences(64))
    made.train()
    assert len(copies) == 3
    assert made.alive == 0


def test_a_copy_that_fails_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> Any:
        raise MemoryError("no memory for a copy")

    monkeypatch.setattr(differences.TensorCopies, "of", fail)
    targets = ["parameters", "updates"]
    _, shown, curves = trained(tmp_path, histogram_targets=targets, telemetry_errors="warn")
    assert {tag.split("/")[0] for tag, _ in shown} == {"parameters"}
    assert curves == {}
    assert len([r for r in caplog.records if "no memory for a copy" in r.getMessage()]) == 1


def test_all_targets_at_every_step_change_no_weight(tmp_path: Path) -> None:
    args = arguments(TrainingArguments, tmp_path / "stock")
    stock = trainer(Trainer, args)
    stock.train()
    values = {"histogram_steps": 1, "histogram_targets": ["parameters", "gradients", "updates"]}
    ours = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path / "ours", **values))
    ours.train()
    assert equal(stock.model.state_dict(), ours.model.state_dict())
    assert equal(stock.optimizer.state_dict(), ours.optimizer.state_dict())


class EightBit(torch.optim.SGD):
    """Keeps its momentum in eight bits, as bitsandbytes does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].get("state1", 0.0) * 0.1 + parameter.grad
                scale = momentum.abs().max().clamp(min=1e-12) / 127
                self.state[parameter]["state1"] = (momentum / scale).round().to(torch.int8)
                parameter.sub_(group["lr"] * momentum)


def test_updates_of_an_optimizer_of_ones_own(tmp_path: Path) -> None:
    model = classifier()
    optimizer = EightBit(model.parameters(), lr=0.01)
    stored, shown, curves = trained(tmp_path, model, optimizers=(optimizer, None))
    assert_shows_the_steps(stored, shown, curves)


class LayerWiseDummyOptimizer(torch.optim.SGD):
    """Is called like that of transformers whose steps are taken in the backward pass."""


def test_steps_in_the_backward_pass_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(
        TBTrainingArguments, tmp_path, histogram_targets=["parameters", "updates"], max_steps=2
    )
    model = classifier()
    optimizer = LayerWiseDummyOptimizer(model.parameters(), lr=0.1)
    trainer(TBTrainer, args, model=model, optimizers=(optimizer, None)).train()
    (file,) = event_files(tmp_path)
    assert {tag.split("/")[0] for tag, _ in histograms(file)} == {"parameters"}
    (message,) = [r.getMessage() for r in caplog.records if "Updates are not" in r.getMessage()]
    assert "LayerWiseDummyOptimizer changes the parameters during the backward pass" in message
