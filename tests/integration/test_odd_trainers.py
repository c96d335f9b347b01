"""Trainers that are subclassed, copied, changed or broken in ways that `Trainer` allows."""

import copy
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tbtrainer import Observer, TBTrainer, TBTrainerMixin, TBTrainingArguments
from tbtrainer.observers import training as training_module
from tbtrainer.records import Records
from tests.events import event_files, histograms, scalars
from tests.tiny import arguments, classifier, equal, trainer

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5}


def losses(directory: Path) -> list[int]:
    return [
        step
        for file in event_files(directory)
        for tag, step, _ in scalars(file)
        if tag == "train/loss"
    ]


def ours(directory: Path, **changes: Any) -> Any:
    changes.setdefault("telemetry_errors", "raise")
    return arguments(TBTrainingArguments, directory, **changes)


# ---- Subclasses ----


def two_subclasses(base: type) -> type:
    class First(base):  # type: ignore[misc, valid-type]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    class Second(base):  # type: ignore[misc, valid-type]
        called: set[str] = set()

        def log(self, *args: Any, **kwargs: Any) -> Any:
            self.called.add("log")
            return super().log(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self.called.add("training_step")
            return super().training_step(*args, **kwargs)

        def save_model(self, *args: Any, **kwargs: Any) -> Any:
            self.called.add("save_model")
            return super().save_model(*args, **kwargs)

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            self.called.add("evaluate")
            return super().evaluate(*args, **kwargs)

    return type("Both", (First, Second), {})


class Mixed(TBTrainerMixin, Trainer):
    pass


@pytest.mark.parametrize("base", [TBTrainer, Mixed])
def test_the_overrides_of_every_base_class_are_called(base: type, tmp_path: Path) -> None:
    made = trainer(two_subclasses(base), ours(tmp_path, **SAVING))
    made.train()
    made.evaluate()
    assert made.called == {"log", "training_step", "save_model", "evaluate"}


def test_a_method_replaced_later_is_called_by_subclasses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sub(TBTrainer):
        pass

    called: list[int] = []
    original = TBTrainer.log
    monkeypatch.setattr(
        TBTrainer, "log", lambda self, *a, **k: (called.append(1), original(self, *a, **k))[1]
    )
    trainer(Sub, ours(tmp_path)).train()
    assert called


def test_a_model_removed_while_building_is_no_error(tmp_path: Path) -> None:
    class Without(Trainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.model = None

    class Ours(TBTrainerMixin, Without):
        pass

    args = ours(tmp_path, telemetry_errors="warn", histogram_include=["weight"])
    assert trainer(Ours, args).model is None


# ---- Copies and what stays alive ----


def test_a_copied_trainer_has_one_run_of_its_own(tmp_path: Path) -> None:
    made = trainer(TBTrainer, ours(tmp_path))
    copy.deepcopy(made).train()
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("moment", ["on_step_end", "on_log", "on_evaluate", "on_save"])
def test_a_trainer_can_be_copied_while_it_trains(moment: str, tmp_path: Path) -> None:
    copies = 0

    def copies_the_trainer(self: TrainerCallback, *args: Any, **kwargs: Any) -> None:
        nonlocal copies
        copy.deepcopy(made)
        copies += 1

    callback = type("Copies", (TrainerCallback,), {moment: copies_the_trainer})()
    evaluating = {"eval_strategy": "steps", "eval_steps": 5}
    args = ours(tmp_path, histogram_steps=1, **evaluating, **SAVING)
    made = trainer(TBTrainer, args, callbacks=[callback])
    made.train()
    assert copies
    assert losses(tmp_path) == [2, 4, 6, 8, 10]


def test_a_second_training_holds_no_parameter_of_the_first(tmp_path: Path) -> None:
    held: list[int] = []
    models: list[weakref.ref[nn.Module]] = []
    parameters: list[weakref.ref[nn.Parameter]] = []

    class Counts(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            gc.collect()
            held.append(sum(reference() is not None for reference in parameters))

    def made_model() -> nn.Module:
        model = classifier()
        models.append(weakref.ref(model))
        return model

    made = trainer(
        TBTrainer,
        ours(tmp_path, histogram_steps=1),
        model=None,
        model_init=made_model,
        callbacks=[Counts()],
    )
    made.train()
    parameters += [weakref.ref(parameter) for parameter in made.model.parameters()]
    made.train()
    assert held == [0, 0]


def test_logging_and_predicting_leave_no_thread_and_no_file_open(tmp_path: Path) -> None:
    class Shows(Observer):
        def evaluation_batch(self, step: int, batch: Any) -> Records:
            return []

    def opened() -> tuple[int, int]:
        gc.collect()
        names = [t.name for t in threading.enumerate() if t.name.startswith("tbtrainer")]
        return len(names), len(os.listdir("/dev/fd"))

    def use(directory: Path) -> None:
        made = trainer(TBTrainer, ours(directory))
        made.add_observer(Shows())
        made.train()
        made.log({"afterwards": 1.0})
        made.predict(made.eval_dataset)

    use(tmp_path / "first")
    before = opened()
    for number in range(3):
        use(tmp_path / str(number))
    assert opened() == before


def test_predicting_without_anything_to_show_makes_no_run(tmp_path: Path) -> None:
    class Shows(Observer):
        def evaluation_batch(self, step: int, batch: Any) -> Records:
            return []

    made = trainer(TBTrainer, ours(tmp_path))
    made.add_observer(Shows())
    made.predict(made.eval_dataset)
    assert not (tmp_path / "runs").exists()


# ---- What is changed or breaks meanwhile ----


def test_without_a_description_of_the_training_its_log_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no table")

    monkeypatch.setattr(training_module, "parameter_table", broken)
    made = trainer(TBTrainer, ours(tmp_path, telemetry_errors="warn", **SAVING))
    made.train()
    made.evaluate()
    assert losses(tmp_path) == [2, 4, 6, 8, 10]
    assert caplog.text.count("no table") == 1
    tags = {tag for file in event_files(tmp_path) for tag, _, _ in scalars(file)}
    assert {"eval/loss", "throughput/checkpoint_seconds"} <= tags


def test_arguments_changed_before_training_are_those_shown(tmp_path: Path) -> None:
    made = trainer(TBTrainer, ours(tmp_path))
    made.args.histogram_strategy = "no"
    made.train()
    assert losses(tmp_path) == [2, 4, 6, 8, 10]
    assert [h for file in event_files(tmp_path) for h in histograms(file)] == []


@pytest.mark.parametrize("removes", [True, False])
def test_a_callback_may_replace_training_step(removes: bool, tmp_path: Path) -> None:
    class Replaces(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                made.training_step = replacement
            if state.global_step == 6 and removes:
                del made.training_step

    def replacement(*args: Any, **kwargs: Any) -> torch.Tensor:
        return TBTrainer.training_step(made, *args, **kwargs)

    made = trainer(TBTrainer, ours(tmp_path), callbacks=[Replaces()])
    made.train()
    assert ("training_step" in vars(made)) is not removes


def test_a_metric_that_is_text_stops_no_checkpoint(tmp_path: Path) -> None:
    class LogsText(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                state.log_history.append({"eval_f1": "n/a", "step": 5})

    args = ours(tmp_path, metric_for_best_model="f1", telemetry_errors="warn", **SAVING)
    trainer(TBTrainer, args, callbacks=[LogsText()]).train()
    assert (tmp_path / "checkpoint-5" / "tensorboard_run.json").exists()


def test_a_logging_step_that_ends_an_epoch_is_shown_once(tmp_path: Path) -> None:
    class LogsAtTheEnd(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_log = True
            return control

    trainer(TBTrainer, ours(tmp_path), callbacks=[LogsAtTheEnd()]).train()
    (file,) = event_files(tmp_path)
    steps = [step for tag, step, _ in scalars(file) if tag == "tbtrainer/overhead_fraction"]
    assert steps == sorted(set(steps))


def test_an_observer_cannot_change_what_evaluate_returns(tmp_path: Path) -> None:
    class Changes(Observer):
        def evaluation_ended(self, step: int, evaluation: Any) -> Records:
            evaluation.metrics["eval_loss"] = -1.0
            return []

    made = trainer(TBTrainer, ours(tmp_path, telemetry_errors="warn"))
    made.add_observer(Changes())
    assert made.evaluate()["eval_loss"] > 0


def test_an_observer_added_during_training_begins_at_once(tmp_path: Path) -> None:
    class Late(Observer):
        begun_at: int | None = None

        def run_begins(self, step: int, training: Any) -> Records:
            self.begun_at = step
            return []

    class Adds(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                made.add_observer(late)

    late = Late()
    made = trainer(TBTrainer, ours(tmp_path), callbacks=[Adds()])
    made.train()
    assert late.begun_at is not None


def test_observers_keep_no_graph(tmp_path: Path) -> None:
    modes: list[bool] = []

    class Looks(Observer):
        def run_begins(self, step: int, training: Any) -> Records:
            modes.append(torch.is_grad_enabled())
            return []

        def micro_batch_taken(self, step: int, loss: torch.Tensor) -> Records:
            modes.append(torch.is_grad_enabled())
            return []

        def logging_step(self, step: int) -> Records:
            modes.append(torch.is_grad_enabled())
            return []

    stock = trainer(Trainer, arguments(TrainingArguments, tmp_path / "stock"))
    stock.train()
    made = trainer(TBTrainer, ours(tmp_path / "ours"))
    made.add_observer(Looks())
    made.train()
    assert set(modes) == {False}
    assert equal(stock.model.state_dict(), made.model.state_dict())
