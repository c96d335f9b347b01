"""Histograms and norms show the tensors of the step they are at."""

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments, tags
from tests.events import Histogram, event_files, histograms, scalars
from tests.tiny import Sequences, arguments, trainer

# With `norm_detail="total"`.
TOTALS = {
    tag.name
    for tag in (
        tags.GRAD_NORM_TOTAL,
        tags.GRAD_NORM_MAX,
        tags.GRAD_NORM_CLIPPED,
        tags.GRAD_NORM_CLIP_FRACTION,
    )
}


class Watched(TBTrainer):
    """Keeps copies of what the telemetry should have seen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gradients: dict[int, dict[str, torch.Tensor]] = {}
        self.parameters: dict[int, dict[str, torch.Tensor]] = {}

    def training_step(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self.gradients[self.state.global_step + 1] = {
                n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
            }
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.parameters[self.state.global_step] = {
            n: p.detach().clone() for n, p in self.model.named_parameters()
        }
        return super()._maybe_log_save_evaluate(*args, **kwargs)


def watched(directory: Path, **changes: Any) -> tuple[Watched, Path]:
    args = arguments(TBTrainingArguments, directory, telemetry_errors="raise", **changes)
    made = trainer(Watched, args)
    made.train()
    (file,) = event_files(directory)
    return made, file


def assert_shows(histogram: Histogram, tensor: torch.Tensor) -> None:
    reference = tensor.double()
    assert histogram.count == tensor.numel() == histogram.counts.sum()
    assert histogram.minimum == reference.min().item()
    assert histogram.maximum == reference.max().item()
    assert histogram.sum == pytest.approx(reference.sum().item(), rel=1e-6, abs=1e-9)
    assert histogram.sum_of_squares == pytest.approx(reference.square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_parameter_and_gradient_is_shown_at_its_step(
    accumulation: int, tmp_path: Path
) -> None:
    made, file = watched(tmp_path, histogram_steps=4, gradient_accumulation_steps=accumulation)
    shown = histograms(file)
    steps = {4, 8, 10}
    for target, seen in (("gradients", made.gradients), ("parameters", made.parameters)):
        names = set(seen[4])
        assert {tag for tag, _ in shown if tag.startswith(target)} == {
            f"{target}/{n}" for n in names
        }
        for step in steps:
            for name in names:
                assert_shows(shown[f"{target}/{name}", step], seen[step][name])
    assert {step for _, step in shown} == steps


def test_histogram_steps_may_be_a_ratio_of_the_training(tmp_path: Path) -> None:
    _, file = watched(tmp_path, histogram_steps=0.5)
    assert {step for _, step in histograms(file)} == {5, 10}


def test_a_snapshot_ends_every_epoch(tmp_path: Path) -> None:
    _, file = watched(
        tmp_path,
        histogram_strategy="epoch",
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=3,
    )
    assert {step for _, step in histograms(file)} == {6, 12}


class Stream(IterableDataset):
    """Rows without an end and without a length."""

    def __iter__(self) -> Iterator[Any]:
        rows = Sequences(64)
        for index in itertools.cycle(range(len(rows))):
            yield rows[index]


def test_a_dataset_without_a_length_is_shown_too(tmp_path: Path) -> None:
    args = arguments(TBTrainingArguments, tmp_path, histogram_steps=5, telemetry_errors="raise")
    trainer(TBTrainer, args, train_dataset=Stream()).train()
    (file,) = event_files(tmp_path)
    assert {step for _, step in histograms(file)} == {5, 10}


def test_no_histograms_when_switched_off(tmp_path: Path) -> None:
    _, file = watched(tmp_path, histogram_strategy="no")
    assert histograms(file) == {}


def test_patterns_choose_the_parameters_and_exclusion_wins(tmp_path: Path) -> None:
    made, file = watched(
        tmp_path, histogram_include=["layer.0", "classifier"], histogram_exclude=["bias$"]
    )
    expected = {
        f"{target}/{name}"
        for target in ("parameters", "gradients")
        for name in made.parameters[1]
        if ("layer.0" in name or "classifier" in name) and not name.endswith("bias")
    }
    assert {tag for tag, _ in histograms(file)} == expected


def test_targets_choose_what_a_snapshot_holds(tmp_path: Path) -> None:
    _, file = watched(tmp_path, histogram_targets=["gradients"])
    assert {tag.split("/")[0] for tag, _ in histograms(file)} == {"gradients"}


def test_no_histogram_has_more_buckets_than_asked_for(tmp_path: Path) -> None:
    _, file = watched(tmp_path, histogram_buckets=12)
    assert max(len(h.counts) for h in histograms(file).values()) <= 12


def test_norms_are_the_rms_over_the_logging_window_before_clipping(tmp_path: Path) -> None:
    made, file = watched(tmp_path, norm_detail="parameter", max_grad_norm=0.3)
    shown = {(tag, step): value for tag, step, value in scalars(file)}
    for step in (2, 4, 6, 8, 10):
        window = [made.gradients[s] for s in (step - 1, step)]
        totals = [math.sqrt(sum(g.double().square().sum() for g in w.values())) for w in window]
        for name in window[0]:
            squares = [w[name].double().square().sum().item() for w in window]
            expected = math.sqrt(sum(squares) / 2)
            assert shown[tags.GRAD_NORM_PER_PARAMETER.of(name), step] == pytest.approx(
                expected, rel=1e-6, abs=1e-12
            )
        rms = math.sqrt(sum(t * t for t in totals) / 2)
        assert shown["grad_norm/total", step] == pytest.approx(rms, rel=1e-6)
        assert shown["grad_norm/max", step] == pytest.approx(max(totals), rel=1e-6)
        clipped = math.sqrt(sum(min(t, 0.3) ** 2 for t in totals) / 2)
        assert shown["grad_norm/clipped", step] == pytest.approx(clipped, rel=1e-6)
        assert shown["grad_norm/clip_fraction", step] == sum(t > 0.3 for t in totals) / 2
        assert shown["train/grad_norm", step] == pytest.approx(totals[1], rel=1e-5)


def test_blocks_are_layers_and_what_stands_outside_them(tmp_path: Path) -> None:
    _, file = watched(tmp_path, norm_detail="block")
    shown = {tag for tag, _, _ in scalars(file) if tag.startswith("grad_norm_per_block/")}
    assert {
        "grad_norm_per_block/bert.encoder.layer.0",
        "grad_norm_per_block/bert.encoder.layer.1",
        "grad_norm_per_block/classifier",
    } <= shown
    assert not any(".attention" in tag for tag in shown)


def test_the_total_alone_when_asked_for(tmp_path: Path) -> None:
    _, file = watched(tmp_path, norm_detail="total")
    shown = {tag for tag, _, _ in scalars(file) if tag.startswith("grad_norm")}
    assert shown == TOTALS


def test_a_training_that_is_stopped_early_has_a_last_snapshot(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            control.should_training_stop = state.global_step == 7

    args = arguments(TBTrainingArguments, tmp_path, histogram_steps=5)
    trainer(TBTrainer, args, callbacks=[Stop()]).train()
    (file,) = event_files(tmp_path)
    assert {s for tag, s in histograms(file) if tag.startswith("parameters/")} == {5, 7}


class Odd(nn.Module):
    """Every kind of tensor a model may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 1)
        self.unused = nn.Linear(2, 2)
        self.tied = self.used
        self.words = nn.Embedding(50, 3, sparse=True)
        self.brief = nn.Parameter(torch.randn(5, dtype=torch.bfloat16))
        self.wide = nn.Parameter(torch.randn(4, dtype=torch.float64) * 1e-3)
        self.tiny = nn.Parameter(torch.randn(6).to(torch.float8_e4m3fn), requires_grad=False)
        self.whole = nn.Parameter(torch.arange(9), requires_grad=False)
        self.switch = nn.Parameter(torch.tensor([True, False, True]), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0))
        self.flat = nn.Parameter(torch.full((7,), 0.25))
        self.broken = nn.Parameter(torch.tensor([1.0, float("nan"), float("inf"), -2.0]))
        self.broken.requires_grad = False

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        word = self.words(input_ids % 50).mean(dim=1)
        rest = self.brief.sum() + self.wide.sum() + self.flat.sum() + self.empty.sum()
        loss = (self.used(word).squeeze(-1) + rest - labels).square().mean().float()
        return {"loss": loss, "logits": word}


def test_every_kind_of_tensor_is_shown_or_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    args = arguments(
        TBTrainingArguments,
        tmp_path,
        optim="sgd",
        histogram_steps=10,
        telemetry_errors="raise",
        max_grad_norm=0.0,
        max_steps=2,
    )
    made = trainer(TBTrainer, args, model=Odd(), eval_dataset=None)
    # stock clips to infinity to know the norm, which torch does not do for sparse gradients
    made._get_grad_norm = lambda *args, **kwargs: None
    with caplog.at_level(logging.WARNING):
        made.train()
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    parameters = {n: p.detach() for n, p in made.model.named_parameters()}
    for name in ("used.weight", "words.weight", "brief", "wide", "tiny", "whole", "switch", "flat"):
        assert_shows(shown[f"parameters/{name}", 2], parameters[name])
    broken = shown["parameters/broken", 2]
    assert (broken.count, broken.minimum, broken.maximum) == (2, -2.0, 1.0)
    assert ("parameters/empty", 2) not in shown
    assert ("gradients/unused.weight", 2) not in shown
    assert ("gradients/words.weight", 2) not in shown
    assert sum("words.weight" in r.message and "sparse" in r.message for r in caplog.records) == 1


def test_a_non_finite_gradient_is_counted_and_hides_nothing(tmp_path: Path) -> None:
    class Planted(TBTrainer):
        def compute_loss(
            self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            return loss * float("nan") if self.state.global_step == 9 else loss

    args = arguments(
        TBTrainingArguments, tmp_path, optim="sgd", learning_rate=0.0, histogram_steps=1
    )
    trainer(Planted, args).train()
    (file,) = event_files(tmp_path)
    shown = {(tag, step): value for tag, step, value in scalars(file)}
    counts = [shown["health/nonfinite_gradients", step] for step in (2, 4, 6, 8, 10)]
    assert counts == [0, 0, 0, 0, 1]
    assert np.isfinite(shown["grad_norm/total", 10])
