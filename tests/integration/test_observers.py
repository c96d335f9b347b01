"""An observer that a user adds: when it is called, what it writes, and what its errors do."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.observers.facts import Checkpoint, Evaluation, EvaluationBatch, Gradients
from tbtrainer.observers.training import Training
from tbtrainer.records import Deferred, Records, Scalar, Text
from tests.events import event_files, scalars, texts
from tests.tiny import arguments, equal, trainer

# Two optimizer steps of two micro-batches; the second step is logged, evaluated and saved.
SHORT: dict[str, Any] = {
    "max_steps": 2,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "per_device_eval_batch_size": 16,
    "save_strategy": "steps",
    "save_steps": 2,
}
MOMENTS = [
    name
    for name, method in vars(Observer).items()
    if callable(method)
    and not name.startswith("_")
    and name not in ("state", "load_state", "step_refused")
]


class Everything(Observer):
    """Keeps the name and the step of each call, and shows a number at each."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def _called(self, moment: str, step: int) -> list[Scalar]:
        self.calls.append((moment, step))
        return [Scalar(f"mine/{moment}", float(len(self.calls)))]

    def run_begins(self, step: int, training: Training) -> Records:
        assert training.parameters.rows
        return self._called("run_begins", step)

    def data_requested(self, step: int) -> Records:
        return self._called("data_requested", step)

    def data_received(self, step: int, micro_batches: Sequence[Any]) -> Records:
        assert len(micro_batches) == 2
        return self._called("data_received", step)

    def forward_begins(self, step: int) -> Records:
        return self._called("forward_begins", step)

    def forward_done(self, step: int, loss: torch.Tensor) -> Records:
        assert loss.requires_grad
        return self._called("forward_done", step)

    def micro_batch_taken(self, step: int, loss: torch.Tensor) -> Records:
        assert loss.ndim == 0
        return self._called("micro_batch_taken", step)

    def gradients_ready(self, step: int, gradients: Gradients | None) -> Records:
        assert gradients is not None and gradients.loss_scale is None
        return self._called("gradients_ready", step)

    def step_taken(self, step: int) -> Records:
        return self._called("step_taken", step)

    def logging_step(self, step: int) -> Records:
        return self._called("logging_step", step)

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> Records:
        return self._called("entry_logged", step)

    def evaluation_begins(self, step: int, dataset: str | None) -> Records:
        assert dataset is None
        return self._called("evaluation_begins", step)

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> Records:
        assert batch.loss is not None and batch.inputs["input_ids"].shape[0] == 16
        return self._called("evaluation_batch", step)

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        assert "eval_loss" in evaluation.metrics and evaluation.dataset is None
        return self._called("evaluation_ended", step)

    def checkpoint_begins(self, step: int) -> Records:
        return self._called("checkpoint_begins", step)

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> Records:
        assert checkpoint.path.endswith("checkpoint-2")
        return self._called("checkpoint_saved", step)

    def run_ends(self, step: int) -> Records:
        return self._called("run_ends", step)

    def close(self) -> None:
        self.calls.append(("close", -1))


ORDER = [
    ("run_begins", 0),
    ("forward_begins", 1),
    ("forward_done", 1),
    ("micro_batch_taken", 1),
    ("forward_begins", 1),
    ("forward_done", 1),
    ("micro_batch_taken", 1),
    ("gradients_ready", 1),
    ("step_taken", 1),
    ("data_requested", 2),
    ("data_received", 2),
    ("forward_begins", 2),
    ("forward_done", 2),
    ("micro_batch_taken", 2),
    ("forward_begins", 2),
    ("forward_done", 2),
    ("micro_batch_taken", 2),
    ("gradients_ready", 2),
    ("step_taken", 2),
    ("logging_step", 2),
    ("entry_logged", 2),
    ("evaluation_begins", 2),
    ("evaluation_batch", 2),
    ("entry_logged", 2),
    ("evaluation_ended", 2),
    ("checkpoint_begins", 2),
    ("checkpoint_saved", 2),
    ("run_ends", 2),
    ("entry_logged", 2),
    ("close", -1),
]


def with_observer(directory: Path, observer: Observer, **changes: Any) -> TBTrainer:
    made: TBTrainer = trainer(TBTrainer, arguments(TBTrainingArguments, directory, **changes))
    made.add_observer(observer)
    return made


def test_an_observer_is_called_at_each_moment_in_order(tmp_path: Path) -> None:
    observer = Everything()
    with_observer(tmp_path, observer, **SHORT, telemetry_errors="raise").train()
    assert observer.calls == ORDER
    assert {moment for moment, _ in ORDER} == set(MOMENTS)


def test_the_records_of_every_moment_are_written(tmp_path: Path) -> None:
    observer = Everything()
    with_observer(tmp_path, observer, **SHORT, telemetry_errors="raise").train()
    (file,) = event_files(tmp_path)
    written = {(tag, step) for tag, step, _ in scalars(file) if tag.startswith("mine/")}
    assert written == {(f"mine/{moment}", step) for moment, step in ORDER if moment != "close"}


def test_an_evaluation_without_training_is_observed(tmp_path: Path) -> None:
    observer = Everything()
    with_observer(tmp_path, observer, **SHORT, telemetry_errors="raise").evaluate()
    assert [moment for moment, _ in observer.calls] == [
        "evaluation_begins",
        "evaluation_batch",
        "entry_logged",
        "evaluation_ended",
    ]


def test_texts_and_deferred_records_are_written(tmp_path: Path) -> None:
    class Later(Observer):
        def run_ends(self, step: int) -> Records:
            return [Text("mine/card", "*done*"), Deferred(lambda: [Scalar("mine/later", 3.0)])]

    with_observer(tmp_path, Later(), max_steps=2).train()
    (file,) = event_files(tmp_path)
    assert ("mine/card/text_summary", 2) in texts(file)
    assert ("mine/later", 2, 3.0) in scalars(file)


def fails(name: str, moments: list[str]) -> Observer:
    """An observer of a class of this name that raises at the moments given."""

    def fail(self: Observer, *facts: Any) -> Records:
        raise RuntimeError("a bug of the user")

    kind: type[Observer] = type(name, (Observer,), dict.fromkeys(moments, fail))
    return kind()


def test_an_observer_that_always_fails_changes_no_weight(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = trainer(Trainer, arguments(TrainingArguments, tmp_path / "stock", **SHORT))
    stock.train()
    with caplog.at_level(logging.WARNING):
        # An observer that cannot begin is left out, so a second one fails at all other moments.
        ours = with_observer(tmp_path / "ours", fails("FailsAlways", MOMENTS), **SHORT)
        later = [moment for moment in MOMENTS if moment != "run_begins"]
        ours.add_observer(fails("FailsLater", later))
        ours.train()
    assert equal(dict(stock.model.state_dict()), dict(ours.model.state_dict()))
    assert equal(stock.optimizer.state_dict(), ours.optimizer.state_dict())
    warnings = [m for m in caplog.messages if "FailsLater" in m]
    assert len(warnings) == len(later), warnings
    assert all("a bug of the user" in warning for warning in warnings)


def test_an_observer_that_cannot_begin_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class CannotBegin(Everything):
        def run_begins(self, step: int, training: Training) -> Records:
            raise RuntimeError("no memory")

    observer = CannotBegin()
    with caplog.at_level(logging.WARNING):
        with_observer(tmp_path, observer, max_steps=2).train()
    assert "step_taken" not in [moment for moment, _ in observer.calls]
    assert "is left out of this training" in caplog.text


@pytest.mark.parametrize("other", [Everything, print, None], ids=["class", "function", "None"])
def test_anything_but_an_observer_is_refused(tmp_path: Path, other: Any) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    with pytest.raises(TypeError, match="instance of a subclass of tbtrainer.Observer"):
        made.add_observer(other)
