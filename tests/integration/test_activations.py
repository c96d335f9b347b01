"""Outputs of modules and their gradients are shown exactly, and nothing changes by it."""

import gc
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.statistics import StreamedTensors
from tests.collected_outputs import Collected, CollectingTrainer, OddLanguageModel
from tests.events import Histogram, event_files, histograms, scalars
from tests.planting import Plant, PlantingTBTrainer, planted
from tests.tiny import LENGTH, Sequences, arguments, classifier, equal, trainer

BLOCKS = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
TARGETS = ["activations", "activation_gradients"]
STEPS = (4, 8, 10)
SHOWN: dict[str, Any] = {
    "histogram_targets": TARGETS,
    "histogram_steps": 4,
    "telemetry_errors": "raise",
}


class Padded(Sequences):
    """Sequences of different lengths, padded."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["attention_mask"] = (torch.arange(LENGTH) < 3 + index % 8).long()
        return item


def with_scaler(made: Any) -> Any:
    # accelerate makes a loss scaler for GPUs, and none for CPUs.
    made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    made.accelerator.native_amp = True
    return made


def assert_shows(shown: dict[tuple[str, int], Histogram], group: str, expected: Collected) -> None:
    """Compares the histograms with the collected tensors, at the steps that are due."""
    due = {key: values for key, values in expected.items() if key[1] in STEPS}
    assert {key for key in shown if key[0].startswith(f"{group}/")} == {
        (f"{group}/{name}", step) for name, step in due
    }
    for (name, step), tensors in due.items():
        histogram, whole = shown[f"{group}/{name}", step], torch.cat(tensors)
        assert histogram.count == whole.numel() == histogram.counts.sum()
        assert histogram.minimum == pytest.approx(float(whole.min()), rel=1e-6)
        assert histogram.maximum == pytest.approx(float(whole.max()), rel=1e-6)
        assert histogram.sum_of_squares == pytest.approx(float(whole.square().sum()), rel=2e-6)


def both_trained(
    directory: Path,
    modules: list[str],
    model: Any = classifier,
    data: Any = None,
    scaled: bool = False,
    include: list[str] | None = None,
    **changes: Any,
) -> tuple[CollectingTrainer, Any, Path]:
    """Trains with plain hooks, and with tbtrainer; returns both trainers and the event file."""
    prepared = with_scaler if scaled else lambda made: made
    given = {"train_dataset": data or Padded(64)}
    args = arguments(TrainingArguments, directory / "stock", **changes)
    stock = prepared(
        CollectingTrainer(modules, args=args, model=model(), eval_dataset=Sequences(8), **given)
    )
    stock.train()
    shown = {**SHOWN, "histogram_include": include}
    args = arguments(TBTrainingArguments, directory / "ours", **changes, **shown)
    ours = prepared(trainer(TBTrainer, args, model=model(), **given))
    ours.train()
    (file,) = event_files(directory / "ours")
    return stock, ours, file


INNER = [r"layer\.\d(\.attention)?$"]
CHECKPOINTED = {"gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 4},
    "checkpointed": {
        **CHECKPOINTED,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "gradient_accumulation_steps": 2,
    },
    "checkpointed, reentrant": {
        **CHECKPOINTED,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "gradient_accumulation_steps": 2,
    },
    "bfloat16": {"bf16": True},
    "float16": {"fp16": True, "scaled": True},
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_plain_hooks(case: str, tmp_path: Path) -> None:
    # Activation checkpointing repeats the attention, and not the hooks of the block.
    modules = [*BLOCKS, f"{BLOCKS[0]}.attention", f"{BLOCKS[1]}.attention"]
    stock, ours, file = both_trained(tmp_path, modules, include=INNER, **CASES[case])
    # Otherwise the modules would not have been run again.
    assert (stock.repeated > 0) == ("checkpointed" in case)
    shown = histograms(file)
    assert_shows(shown, "activations", stock.outputs)
    assert_shows(shown, "activation_gradients", stock.gradients)
    assert equal(stock.model.state_dict(), ours.model.state_dict())
    curves = {(tag, step): v for tag, step, v in scalars(file) if tag.startswith("activation_rms/")}
    assert len(curves) == 12
    for (tag, step), value in curves.items():
        whole = torch.cat(stock.outputs[tag.partition("/")[2], step])
        assert value == pytest.approx(float(whole.square().mean().sqrt()), rel=1e-6)


def with_adapters() -> Any:
    torch.manual_seed(1)
    return get_peft_model(classifier(), LoraConfig(target_modules=["query", "value"], r=2))


def test_blocks_with_lora_adapters_are_shown(tmp_path: Path) -> None:
    modules = [f"base_model.model.{name}" for name in BLOCKS]
    stock, ours, file = both_trained(tmp_path, modules, with_adapters)
    assert any("lora" in name for name, _ in ours.model.named_parameters())
    shown = histograms(file)
    assert_shows(shown, "activations", stock.outputs)
    assert_shows(shown, "activation_gradients", stock.gradients)
    assert equal(stock.model.state_dict(), ours.model.state_dict())


def test_every_form_of_an_output_is_shown(tmp_path: Path) -> None:
    names = [f"layers.{n}" for n in (0, 1, 2, 5)]
    stock, ours, file = both_trained(tmp_path, names, model=OddLanguageModel, data=Sequences(64))
    shown = {key: h for key, h in histograms(file).items() if not key[0].endswith("layers.3")}
    assert_shows(shown, "activations", stock.outputs)
    assert_shows(shown, "activation_gradients", stock.gradients)
    # It returns a mapping. The fourth is never run.
    assert ("activations/layers.3", 4) in histograms(file)
    assert ("activations/layers.4", 4) not in histograms(file)
    assert equal(stock.model.state_dict(), ours.model.state_dict())


def hooked(model: nn.Module) -> list[str]:
    """The modules that have any hook."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [n for n, m in model.named_modules() if any(getattr(m, kind) for kind in kinds)]


class HooksSeen(TrainerCallback):
    """Looks for hooks when an optimizer step is about to be taken, and after it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.found += hooked(kwargs["model"])

    on_step_end = on_substep_end = on_evaluate = on_pre_optimizer_step


class HooksInForward(TBTrainer):
    """Keeps which modules have hooks in each forward pass, by step."""

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        found = self.__dict__.setdefault("hooked", {})
        found[self.state.global_step + 1, model.training] = hooked(model)
        return super().compute_loss(model, *args, **kwargs)


def test_hooks_exist_while_micro_batches_of_due_steps_are_taken(tmp_path: Path) -> None:
    values = {**SHOWN, "eval_strategy": "steps", "eval_steps": 3}
    args = arguments(TBTrainingArguments, tmp_path, gradient_accumulation_steps=2, **values)
    seen = HooksSeen()
    made = trainer(HooksInForward, args, callbacks=[seen])
    made.train()
    with_hooks = {key for key, names in made.hooked.items() if names}
    assert with_hooks == {(step, True) for step in STEPS}
    assert made.hooked[4, True] == ["", *BLOCKS]
    assert seen.found == []


def test_a_second_forward_pass_is_not_counted(tmp_path: Path) -> None:
    values = {**SHOWN, "nonfinite_action": "stop"}
    args = arguments(TBTrainingArguments, tmp_path, **values)
    planted(PlantingTBTrainer, args, Plant("gradient", step=4)).train()
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    assert shown[f"activations/{BLOCKS[0]}", 4].count == 4 * LENGTH * 16


class GeneratingTrainer(TBTrainer):
    """Runs the model without gradients before and after each forward pass, as GRPO does."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            model(**inputs)
            model.bert(inputs["input_ids"])
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_forward_passes_without_gradients_are_not_counted(tmp_path: Path) -> None:
    args = arguments(TBTrainingArguments, tmp_path, **SHOWN)
    made = GeneratingTrainer(args=args, model=classifier(), train_dataset=Sequences(64))
    made.train()
    (file,) = event_files(tmp_path)
    assert histograms(file)[f"activations/{BLOCKS[0]}", 4].count == 4 * LENGTH * 16


def test_padding_of_an_encoder_and_decoder_is_counted(tmp_path: Path) -> None:
    config = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **config))

    class Pairs(Padded):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            return {**item, "labels": item["input_ids"]}

    args = arguments(TBTrainingArguments, tmp_path, **SHOWN)
    TBTrainer(args=args, model=model, train_dataset=Pairs(64)).train()
    (file,) = event_files(tmp_path)
    counts = {tag: h.count for (tag, step), h in histograms(file).items() if step == 4}
    assert counts == {
        f"{target}/{part}.block.{n}": 4 * LENGTH * 8
        for target in TARGETS
        for part in ("encoder", "decoder")
        for n in (0, 1)
    }


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What tbtrainer has logged."""
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        yield Messages(caplog)  # type: ignore[misc]


class Messages(list):
    """The messages of tbtrainer's log, as they are now."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        super().__init__()
        self.caplog = caplog

    def __iter__(self) -> Iterator[str]:
        records = self.caplog.records
        return iter([r.getMessage() for r in records if r.name.startswith("tbtrainer")])


def shown_with(directory: Path, model: Any = None, **changes: Any) -> set[str]:
    """The tags of the histograms of a training."""
    args = arguments(TBTrainingArguments, directory, **{**SHOWN, **changes})
    trainer(TBTrainer, args, model=model or classifier()).train()
    (file,) = event_files(directory)
    return {tag for tag, _ in histograms(file)}


def test_patterns_choose_modules_by_their_names(tmp_path: Path, warnings: list[str]) -> None:
    tags = shown_with(
        tmp_path,
        histogram_targets=["parameters", "activations"],
        histogram_include=[r"attention$", r"classifier"],
        histogram_exclude=[r"layer\.1\.", "bias$"],
    )
    assert tags == {
        "activations/bert.encoder.layer.0.attention",
        "activations/classifier",
        "parameters/classifier.weight",
    }
    assert list(warnings) == []


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, warnings: list[str]) -> None:
    values = {"histogram_targets": ["parameters", "activations"]}
    assert shown_with(tmp_path, histogram_include=["attentoin$"], **values) == set()
    no_match, no_module = warnings
    assert "histogram_include='attentoin$' matches no parameter and no module" in no_match
    assert "activations are not shown, because no module of this model is chosen" in no_module


def test_patterns_of_modules_alone_leave_no_parameter(tmp_path: Path, warnings: list[str]) -> None:
    values = {"histogram_targets": ["parameters", "activations"]}
    tags = shown_with(tmp_path, histogram_include=[r"layer\.\d$"], **values)
    assert tags == {f"activations/{block}" for block in BLOCKS}
    (message,) = warnings
    assert "matches modules only, so there is no histogram of: parameters" in message


def test_a_model_without_blocks_gets_one_warning(tmp_path: Path, warnings: list[str]) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 4), nn.Linear(4, 2)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
            logits = self.last(self.first(input_ids.float()))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    assert shown_with(tmp_path, Plain(), histogram_targets=["activations", "parameters"]) == {
        f"parameters/{layer}.{kind}" for layer in ("first", "last") for kind in ("weight", "bias")
    }
    (message,) = warnings
    assert "no module of this model is chosen" in message
    assert "'first', 'last'" in message


def test_an_error_in_a_hook_costs_one_warning(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = trainer(Trainer, arguments(TrainingArguments, tmp_path / "stock"))
    stock.train()
    add = StreamedTensors.add

    def fail(self: Any, member: int, *args: Any) -> None:
        if member == 1:
            raise MemoryError("no memory for the counters")
        add(self, member, *args)

    monkeypatch.setattr(StreamedTensors, "add", fail)
    targets = ["parameters", "activations"]
    values = {**SHOWN, "telemetry_errors": "warn", "histogram_targets": targets}
    ours = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path / "ours", **values))
    ours.train()
    (file,) = event_files(tmp_path / "ours")
    assert {tag.partition("/")[0] for tag, _ in histograms(file)} == {"parameters"}
    (message,) = warnings
    assert "could not measure the activations: MemoryError: no memory for the counters" in message
    assert equal(stock.model.state_dict(), ours.model.state_dict())


def test_frozen_blocks_have_activations_and_no_gradients(tmp_path: Path) -> None:
    model = classifier()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    assert shown_with(tmp_path, model) == {
        *(f"activations/{block}" for block in BLOCKS),
        f"activation_gradients/{BLOCKS[1]}",
    }


def test_a_compiled_model_is_not_hooked(tmp_path: Path, warnings: list[str]) -> None:
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    stock = arguments(TrainingArguments, tmp_path / "stock", torch_compile=True, **COMPILED)
    without = trainer(Trainer, stock)
    without.train()
    compilations = counters["frames"]["total"]
    torch._dynamo.reset()
    counters.clear()
    args = arguments(
        TBTrainingArguments,
        tmp_path / "ours",
        torch_compile=True,
        **{**SHOWN, **COMPILED, "histogram_steps": 1, "histogram_targets": ALL},
    )
    made = trainer(HooksInForward, args)
    made.train()
    assert not any(made.hooked.values())
    (file,) = event_files(tmp_path / "ours")
    assert {tag.partition("/")[0] for tag, _ in histograms(file)} == {"parameters", "gradients"}
    (message,) = warnings
    assert "2 of 2 modules are not shown, because torch.compile" in message
    assert BLOCKS[0] in message
    assert equal(without.model.state_dict(), made.model.state_dict())
    assert counters["frames"]["total"] == compilations > 0


ALL = ["parameters", "gradients", *TARGETS]
COMPILED = {"torch_compile_backend": "eager", "max_steps": 3}


def test_blocks_outside_of_compiled_ones_are_shown(tmp_path: Path, warnings: list[str]) -> None:
    model = classifier()
    model.bert.encoder.layer[0].compile(backend="eager")
    tags = shown_with(tmp_path, model, max_steps=2)
    assert tags == {f"{target}/{BLOCKS[1]}" for target in TARGETS}
    (message,) = warnings
    assert "1 of 2 modules are not shown" in message


class SummingBlock(nn.Module):
    """Adds up the output of a layer with the operation that counts a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y * torch.sigmoid(y.sum())


class SelectivelyCheckpointed(nn.Module):
    """Keeps the sums in its blocks, and repeats the rest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList(SummingBlock() for _ in range(2))
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
        hidden = self.embed(input_ids)
        contexts = partial(create_selective_checkpoint_contexts, [torch.ops.aten.sum.default])
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False, context_fn=contexts)
        logits = self.head(hidden[:, 0])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_selective_checkpointing_keeps_none_of_our_results(tmp_path: Path) -> None:
    given = {"train_dataset": Padded(64)}
    args = arguments(TrainingArguments, tmp_path / "stock")
    stock = trainer(Trainer, args, model=SelectivelyCheckpointed(), **given)
    stock.train()
    values = {**SHOWN, "histogram_steps": 1, "histogram_include": ["layers"]}
    args = arguments(TBTrainingArguments, tmp_path / "ours", **values)
    ours = trainer(TBTrainer, args, model=SelectivelyCheckpointed(), **given)
    ours.train()
    (file,) = event_files(tmp_path / "ours")
    assert ("activations/layers.0.inner", 4) in histograms(file)
    assert equal(stock.model.state_dict(), ours.model.state_dict())


def live_tensors() -> int:
    gc.collect()
    # Not `isinstance`, which asks deprecated objects for their class: these warn.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class LiveTensors(TrainerCallback):
    """Counts the tensors that are alive after some steps."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = steps
        self.counts: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            self.counts.append(live_tensors())


def test_a_thousand_snapshots_keep_no_tensor_alive(tmp_path: Path) -> None:
    live = LiveTensors((20, 500, 1000))
    values = {**SHOWN, "histogram_steps": 1, "max_steps": 1000, "logging_steps": 500}
    args = arguments(TBTrainingArguments, tmp_path, **values)
    trainer(TBTrainer, args, model=classifier(layers=1), callbacks=[live]).train()
    early, later, last = live.counts
    # Those of snapshots that another thread has not written yet.
    assert max(later, last) <= early + 200
