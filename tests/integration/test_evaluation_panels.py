"""Panels in real evaluations: what they are told, what reaches them, what they change."""

import logging
import pickle
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from tbtrainer import Panel, TBTrainer, TBTrainingArguments, telemetry
from tbtrainer.observers import evaluation_panels
from tbtrainer.panels import Kept, KeptOfAllRanks, PanelBatch, PanelEvaluation
from tbtrainer.records import Scalar
from tests.events import event_files, scalars
from tests.limits import HANG_SECONDS
from tests.tiny import Sequences, arguments, trainer


class Counted(Panel):
    """Keeps labels and logits of each example, and counts the labels."""

    def __init__(self) -> None:
        self.kept: list[KeptOfAllRanks] = []
        self.evaluations: list[PanelEvaluation] = []

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        assert batch.logits is not None
        return Kept(
            examples={"label": batch.labels, "logits": batch.logits},
            totals={"labels": torch.bincount(batch.labels, minlength=2)},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Scalar]:
        self.kept.append(kept)
        self.evaluations.append(evaluation)
        return [Scalar(evaluation.tag("ones"), float(kept.totals["labels"][1]))]


def evaluated(tmp_path: Path, *panels: Panel, data: Any = None, **changes: Any) -> Any:
    """A trainer that has evaluated a dataset of 19 sequences."""
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=list(panels), **changes)
    built = trainer(TBTrainer, args, eval_dataset=data or Sequences(19, seed=1))
    built.metrics = built.evaluate()
    return built


def shown(built: Any) -> list[tuple[str, int, float]]:
    """The scalars in the event file of a trainer."""
    return scalars(event_files(Path(built.writer.log_dir))[0])


def test_a_panel_sees_every_example_without_compute_metrics(tmp_path: Path) -> None:
    panel = Counted()
    evaluated(tmp_path, panel)
    data = Sequences(19, seed=1)
    assert panel.kept[0].seen == 19
    assert panel.kept[0].examples["label"].tolist() == data.labels.tolist()
    assert panel.kept[0].totals["labels"].tolist() == np.bincount(data.labels).tolist()


def test_a_panel_gets_the_logits_that_predict_returns(tmp_path: Path) -> None:
    panel = Counted()
    built = evaluated(tmp_path, panel)
    predicted = built.predict(Sequences(19, seed=1)).predictions
    np.testing.assert_array_equal(panel.kept[0].examples["logits"], predicted)


def test_what_a_panel_draws_is_written(tmp_path: Path) -> None:
    built = evaluated(tmp_path, Counted())
    expected = float(Sequences(19, seed=1).labels.sum())
    assert ("eval/ones", 0, expected) in shown(built)


def test_each_dataset_of_a_dictionary_is_shown_alone(tmp_path: Path) -> None:
    panel = Counted()
    data = {"short": Sequences(5, seed=1), "long": Sequences(11, seed=2)}
    built = evaluated(tmp_path, panel, data=data)
    assert [kept.seen for kept in panel.kept] == [5, 11]
    assert {"eval/short/ones", "eval/long/ones"} <= {tag for tag, _, _ in shown(built)}


def test_a_prediction_reaches_no_panel(tmp_path: Path) -> None:
    panel = Counted()
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=[panel])
    trainer(TBTrainer, args).predict(Sequences(19, seed=1))
    assert panel.kept == []


def test_metrics_are_on_the_evaluation_that_is_drawn(tmp_path: Path) -> None:
    panel = Counted()
    built = evaluated(tmp_path, panel)
    assert panel.evaluations[0].metrics["eval_loss"] == built.metrics["eval_loss"]


class Failing(Counted):
    """Raises an error at one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self.fail)

    def fail(self, *args: Any) -> Any:
        raise RuntimeError("no such luck")


@pytest.mark.parametrize("method", ["applies", "batch", "draw"])
def test_a_failing_panel_is_reported_once(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=[Failing(method)])
    built = trainer(TBTrainer, args)
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        built.evaluate()
        built.evaluate()
    found = [r.getMessage() for r in caplog.records if "no such luck" in r.getMessage()]
    assert len(found) == 1 and "evaluation panel Failing" in found[0]


def test_a_training_with_panels_saves_its_checkpoints(tmp_path: Path) -> None:
    class Local(Counted):
        """A class that cannot be pickled."""

    args = arguments(
        TBTrainingArguments, tmp_path, evaluation_panels=["auto", Local()], save_strategy="steps"
    )
    trainer(TBTrainer, args).train()
    saved = torch.load(tmp_path / "checkpoint-10" / "training_args.bin", weights_only=False)
    assert saved.evaluation_panels == ["auto", "Local"]


class Drawing(Counted):
    """Draws random numbers where the model may be run once more."""

    def finish(self, evaluation: PanelEvaluation) -> None:
        torch.rand(3), np.random.rand(3), random.random()


def test_an_evaluation_with_panels_changes_nothing(tmp_path: Path) -> None:
    results = []
    for cls, own in ((Trainer, {}), (TBTrainer, {"evaluation_panels": ["auto", Drawing()]})):
        kind = TBTrainingArguments if own else TrainingArguments
        args = arguments(kind, tmp_path / cls.__name__, **own)
        built = trainer(cls, args, eval_dataset=Sequences(19, seed=1))
        loss = built.evaluate()["eval_loss"]
        results.append((loss, torch.get_rng_state(), np.random.get_state()[1], random.getstate()))
    stock, ours = results
    assert stock[0] == ours[0] and stock[3] == ours[3]
    assert torch.equal(stock[1], ours[1]) and np.array_equal(stock[2], ours[2])


def test_a_secret_in_the_name_of_a_dataset_is_hidden(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2c3D4e5" * 3 + "f6G7"
    built = evaluated(tmp_path, Counted(), data={secret: Sequences(5, seed=1)})
    assert secret.encode() not in event_files(Path(built.writer.log_dir))[0].read_bytes()


def test_pickled_arguments_say_which_panel_they_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=[Counted()])
    loaded = replace(pickle.loads(pickle.dumps(args)))
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        trainer(TBTrainer, loaded).evaluate()
    assert "panel Counted is not shown" in caplog.text


def test_a_checkpoint_is_saved_before_a_slow_drawing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "DRAIN_SECONDS", 0.01)
    saved, in_time = threading.Event(), []

    class Slow(Counted):
        def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Scalar]:
            in_time.append(saved.wait(HANG_SECONDS))
            return []

    class Saved(TrainerCallback):
        def on_save(self, *args: Any, **kwargs: Any) -> None:
            saved.set()

    both = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10}
    args = arguments(TBTrainingArguments, tmp_path, evaluation_panels=[Slow()], **both)
    monkeypatch.setattr(evaluation_panels, "DRAW_SECONDS", HANG_SECONDS)
    trainer(TBTrainer, args, callbacks=[Saved()]).train()
    assert in_time == [True]
