"""The mixin before trainers of others, and subclasses that replace a method of `Trainer`."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainerMixin, TBTrainingArguments, TensorBoardArguments
from tests.events import event_files, histograms, scalars
from tests.tiny import Sequences, arguments, classifier, trainer


class Early(Trainer):
    """Logs, evaluates and trains before its `__init__` is over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log({"ready": 1.0})
        self.evaluate()
        self.train()


class EarlyWithTensorBoard(TBTrainerMixin, Early):
    pass


def stock_scalars(directory: Path) -> list[tuple[str, int, float]]:
    """Scalars of all files that do not depend on the clock."""
    return [
        (tag, step, value)
        for file in event_files(directory)
        for tag, step, value in scalars(file)
        if tag.startswith(("train/", "eval/"))
        and not tag.endswith(("runtime", "per_second", "_time"))
    ]


def test_a_trainer_that_trains_while_it_is_built_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before a training, stock writes to the working directory unless a place is named.
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "stock" / "run"))
    stock = arguments(TrainingArguments, tmp_path / "stock", report_to="tensorboard")
    trainer(Early, stock)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    # The stock callback has to be out before the first entry is logged.
    args = arguments(
        TBTrainingArguments, tmp_path / "ours", report_to="tensorboard", telemetry_errors="raise"
    )
    trainer(EarlyWithTensorBoard, args)
    records = stock_scalars(tmp_path / "ours")
    assert sorted(records) == sorted(stock_scalars(tmp_path / "stock"))
    assert ("train/ready", 0, 1.0) in records
    assert len({file.parent for file in event_files(tmp_path / "ours")}) == 1


def test_arguments_may_be_positional_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Ready(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.log({"ready": 1.0})

    class Both(TBTrainerMixin, Ready):
        pass

    Both(classifier(), arguments(TBTrainingArguments, tmp_path / "a", telemetry_errors="raise"))
    Both(model=classifier(), args=None)
    tags = [tag for file in event_files(tmp_path) for tag, _, _ in scalars(file)]
    assert tags == ["train/ready", "train/epoch"] * 2


class Twice(Trainer):
    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log({"first": 1.0}, *args, **kwargs)
        super().log({**logs, "second": 2.0}, *args, **kwargs)


class Swallows(Trainer):
    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if "loss" not in logs:
            super().log(logs, *args, **kwargs)


class LogsWhileLogging(Trainer):
    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        if "loss" in logs:
            self.log({"inner": 3.0})


class LogsSteps(Trainer):
    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "step": 77}, *args, **kwargs)


@pytest.mark.parametrize("right", [Twice, Swallows, LogsWhileLogging, LogsSteps])
def test_what_enters_the_history_is_written_once(right: type[Trainer], tmp_path: Path) -> None:
    class Both(TBTrainerMixin, right):
        pass

    stock = arguments(TrainingArguments, tmp_path / "stock", report_to="tensorboard", seed=4)
    trainer(right, stock).train()
    args = arguments(TBTrainingArguments, tmp_path / "ours", seed=4, telemetry_errors="raise")
    trainer(Both, args).train()
    ours, stocks = stock_scalars(tmp_path / "ours"), stock_scalars(tmp_path / "stock")
    assert sorted(ours) == sorted(r for r in stocks if r[0] != "train/step")


class StepOfItsOwn(TBTrainer):
    """Takes two backward passes per micro-batch, and does not call `super().training_step`."""

    gradients: dict

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        for _ in range(2):
            loss = self.compute_loss(model, inputs) / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            grad = model.classifier.weight.grad
            self.gradients[self.state.global_step + 1] = grad.clone()
        return loss.detach()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_of_a_users_own_training_step_are_whole(
    accumulation: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(
        TBTrainingArguments,
        tmp_path,
        histogram_steps=1,
        gradient_accumulation_steps=accumulation,
        telemetry_errors="raise",
    )
    made = trainer(StepOfItsOwn, args)
    made.gradients = {}
    made.train()
    (file,) = event_files(tmp_path)
    shown = histograms(file)
    assert set(made.gradients) == set(range(1, 11))
    for step, gradient in made.gradients.items():
        found = shown["gradients/classifier.weight", step]
        expected = gradient.double().square().sum().item()
        assert found.sum_of_squares == pytest.approx(expected, rel=1e-6)
    assert ("grad_norm/total", 2) in {(tag, step) for tag, step, _ in scalars(file)}
    assert "training_step" not in made.__dict__
    assert "training_step" not in caplog.text


class LoopOfItsOwn(TBTrainer):
    """Neither its loop nor its step comes past those of `TBTrainer`."""

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        return Trainer._inner_training_loop(self, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return Trainer.training_step(self, *args, **kwargs)


def test_gradients_that_cannot_be_seen_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(LoopOfItsOwn, arguments(TBTrainingArguments, tmp_path, histogram_steps=5))
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        made.train()
    (file,) = event_files(tmp_path)
    assert {tag.split("/")[0] for tag, _ in histograms(file)} == {"parameters"}
    warnings = [r.message for r in caplog.records if r.name.startswith("tbtrainer")]
    assert len(warnings) == 1
    assert "LoopOfItsOwn" in warnings[0]
    assert "super().training_step" in warnings[0]


@dataclass
class OtherConfig(TrainingArguments):
    """The arguments of another library's trainer."""

    temperature: float = 0.9


class OtherTrainer(Trainer):
    """Turns plain arguments into its own, as TRL's trainers do."""

    def __init__(
        self,
        model: torch.nn.Module,
        args: OtherConfig | TrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(args, TrainingArguments) and not isinstance(args, OtherConfig):
            args = OtherConfig(**args.to_dict())
        super().__init__(model, args, **kwargs)


class OtherWithTensorBoard(TBTrainerMixin, OtherTrainer):
    pass


@pytest.mark.parametrize("positional", [True, False])
def test_arguments_that_a_trainer_converts_keep_their_choices(
    positional: bool, tmp_path: Path
) -> None:
    given = arguments(
        TBTrainingArguments,
        tmp_path,
        norm_detail="total",
        histogram_steps=5,
        logging_dir=str(tmp_path / "run"),
    )
    data = {"train_dataset": Sequences(64)}
    if positional:
        made = OtherWithTensorBoard(classifier(), given, **data)
    else:
        made = OtherWithTensorBoard(model=classifier(), args=given, **data)
    assert type(made.args) is OtherConfig
    assert made.args.learning_rate == given.learning_rate
    made.train()
    (file,) = event_files(tmp_path / "run")
    norms = {tag for tag, _, _ in scalars(file) if tag.startswith("grad_norm_per_")}
    assert norms == set()
    assert {step for _, step in histograms(file)} == {5, 10}
    assert given.to_dict()["norm_detail"] == "total"


def test_the_config_of_the_other_trainer_is_not_converted(tmp_path: Path) -> None:
    @dataclass
    class Config(TensorBoardArguments, OtherConfig):
        pass

    args = arguments(Config, tmp_path, norm_detail="total")
    made = OtherWithTensorBoard(classifier(), args, train_dataset=Sequences(64))
    assert made.args is args
    assert {f.name for f in fields(TensorBoardArguments)} <= set(made.args.to_dict())
