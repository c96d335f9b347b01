"""`TBTrainer` takes `Trainer`'s place: the same training, the same scalars, the same files."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, scalars, texts
from tests.tiny import Sequences, arguments, classifier, equal, trainer

# What differs between two runs of the same training with the same trainer.
TIMES = ("runtime", "per_second", "_time")
EVERYTHING = {"histogram_steps": 1, "norm_detail": "parameter", "telemetry_errors": "raise"}


def without_times(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in history]


def trained(
    cls: type[Trainer], args_cls: type[TrainingArguments], directory: Path, **changes: Any
) -> Trainer:
    made = trainer(cls, arguments(args_cls, directory, **changes))
    made.train()
    return made


def rng_states() -> tuple:
    import random

    import numpy as np

    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 5},
        {"max_grad_norm": 0.0},
        {"max_steps": -1, "num_train_epochs": 2, "logging_strategy": "epoch"},
        {"bf16": True},
    ],
    ids=["plain", "accumulation", "evaluation and saving", "no clipping", "epochs", "bf16"],
)
def test_the_training_is_unchanged_to_the_last_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    stock = trained(Trainer, TrainingArguments, tmp_path / "stock", **changes)
    stock_rng = rng_states()
    ours = trained(TBTrainer, TBTrainingArguments, tmp_path / "ours", **changes, **EVERYTHING)
    our_rng = rng_states()

    assert equal(dict(stock.model.state_dict()), dict(ours.model.state_dict()))
    assert equal(stock.optimizer.state_dict(), ours.optimizer.state_dict())
    assert stock.optimizer.state_dict()["state"]
    assert stock_rng[:2] == our_rng[:2]
    assert torch.equal(stock_rng[2], our_rng[2])
    assert without_times(stock.state.log_history) == without_times(ours.state.log_history)


def test_a_checkpoint_holds_stocks_files_and_one_of_ours(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
    trained(Trainer, TrainingArguments, tmp_path / "stock", **changes)
    trained(TBTrainer, TBTrainingArguments, tmp_path / "ours", **changes, **EVERYTHING)
    for checkpoint in ("checkpoint-5", "checkpoint-10"):
        stock, ours = tmp_path / "stock" / checkpoint, tmp_path / "ours" / checkpoint
        names = {path.name for path in stock.iterdir()}
        assert {path.name for path in ours.iterdir()} == names | {"tensorboard_run.json"}
        # The arguments hold the output directory and our fields; the state holds times.
        for name in names - {"training_args.bin", "trainer_state.json"}:
            assert (stock / name).read_bytes() == (ours / name).read_bytes(), name
        states = [json.loads((p / "trainer_state.json").read_text()) for p in (stock, ours)]
        for state in states:
            state["log_history"] = without_times(state["log_history"])
            state["best_model_checkpoint"] = None
        assert states[0] == states[1]


def test_every_stock_scalar_keeps_tag_step_and_value(tmp_path: Path) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 4, "seed": 3}
    args = arguments(TrainingArguments, tmp_path / "stock", **changes)
    args.report_to = ["tensorboard"]
    stock = trainer(Trainer, args)
    stock.train()
    ours = trained(TBTrainer, TBTrainingArguments, tmp_path / "ours", **changes)

    (stock_file,) = event_files(tmp_path / "stock")
    (our_file,) = event_files(tmp_path / "ours")
    stock_records = scalars(stock_file)
    tags = {tag for tag, _, _ in stock_records}
    our_records = [record for record in scalars(our_file) if record[0] in tags]
    timed = [tag for tag in tags if tag.endswith(TIMES)]
    assert [(t, s) for t, s, _ in our_records] == [(t, s) for t, s, _ in stock_records]
    assert [r for r in our_records if r[0] not in timed] == [
        r for r in stock_records if r[0] not in timed
    ]
    assert set(texts(stock_file)) <= set(texts(our_file)) | {("args/text_summary", 0)}
    assert ours.state.global_step == stock.state.global_step


@pytest.mark.parametrize("report_to", ["tensorboard", "all", "none", ["tensorboard"]])
def test_the_stock_callback_is_taken_out_and_others_stay(
    report_to: str | list[str], tmp_path: Path
) -> None:
    made = trainer(
        TBTrainer,
        arguments(TrainingArguments, tmp_path, report_to=report_to),
        callbacks=[TensorBoardCallback(), EarlyStoppingCallback(3)],
    )
    kinds = [type(callback) for callback in made.callback_handler.callbacks]
    assert TensorBoardCallback not in kinds
    assert EarlyStoppingCallback in kinds


@pytest.mark.parametrize("added", ["given", "later"])
def test_a_callback_with_a_users_writer_stays_and_writes(added: str, tmp_path: Path) -> None:
    def mine(directory: Path) -> TensorBoardCallback:
        return TensorBoardCallback(SummaryWriter(str(directory)))

    def run(cls: type[Trainer], args_cls: type[TrainingArguments], directory: Path) -> Trainer:
        callback = mine(directory / "mine")
        args = arguments(args_cls, directory / "out", eval_strategy="epoch")
        made = trainer(cls, args, callbacks=[callback] if added == "given" else None)
        if added == "later":
            made.add_callback(callback)
        made.train()
        return made

    run(Trainer, TrainingArguments, tmp_path / "stock")
    ours = run(TBTrainer, TBTrainingArguments, tmp_path / "ours")
    stock_file, our_file = (event_files(tmp_path / name / "mine")[0] for name in ("stock", "ours"))
    keys = [(tag, step) for tag, step, _ in scalars(stock_file)]
    assert [(tag, step) for tag, step, _ in scalars(our_file)] == keys
    assert len(keys) > 5
    # It has lost its writer to the end of the training: it must not open another beside ours.
    ours.evaluate()
    assert len(event_files(tmp_path / "ours")) == 2


def test_the_callback_list_is_stocks(tmp_path: Path) -> None:
    stock = trainer(Trainer, arguments(TrainingArguments, tmp_path / "a"))
    ours = trainer(TBTrainer, arguments(TrainingArguments, tmp_path / "b"))
    assert [type(c) for c in ours.callback_handler.callbacks] == [
        type(c) for c in stock.callback_handler.callbacks
    ]


def test_overridden_training_step_and_log_are_called(tmp_path: Path) -> None:
    class Mine(TBTrainer):
        def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            super().log({**logs, "mine": 7.0}, *args, **kwargs)

    trained(Mine, TBTrainingArguments, tmp_path)
    (file,) = event_files(tmp_path)
    assert ("train/mine", 2, 7.0) in scalars(file)


def test_entries_added_by_a_trainer_to_the_right_are_written(tmp_path: Path) -> None:
    from tbtrainer import TBTrainerMixin

    class Right(Trainer):
        def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            super().log({**logs, "rewards": 0.25}, *args, **kwargs)

    class Both(TBTrainerMixin, Right):
        pass

    trained(Both, TrainingArguments, tmp_path)
    (file,) = event_files(tmp_path)
    assert ("train/rewards", 2, 0.25) in scalars(file)


def test_evaluations_before_during_and_after_training_are_in_one_run(tmp_path: Path) -> None:
    args = arguments(TBTrainingArguments, tmp_path, eval_strategy="steps", eval_steps=5)
    made = trainer(TBTrainer, args)
    made.evaluate()
    made.train()
    made.evaluate(metric_key_prefix="test")
    directories = {file.parent for file in event_files(tmp_path)}
    assert len(directories) == 1
    records = [r for file in event_files(tmp_path) for r in scalars(file)]
    steps = [step for tag, step, _ in records if tag == "eval/loss"]
    assert steps == [0, 5, 10]
    assert [step for tag, step, _ in records if tag == "test/loss"] == [10]


def test_a_dictionary_of_datasets_is_logged_once_per_dataset(tmp_path: Path) -> None:
    datasets = {"easy": Sequences(8, seed=2), "hard": Sequences(8, seed=3)}
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path), eval_dataset=datasets)
    metrics = made.evaluate()
    assert {"eval_easy_loss", "eval_hard_loss"} <= set(metrics)
    (file,) = event_files(tmp_path)
    tags = [tag for tag, _, _ in scalars(file)]
    assert tags.count("eval/easy_loss") == tags.count("eval/hard_loss") == 1


def test_predict_writes_nothing(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    output = made.predict(Sequences(8))
    assert output.predictions.shape == (8, 2)
    assert event_files(tmp_path) == []


def test_the_writer_takes_a_users_own_records(tmp_path: Path) -> None:
    class Noted(TrainerCallback):
        made: TBTrainer

        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            self.made.writer.add_scalar("mine/step", state.global_step, state.global_step)

    noted = Noted()
    noted.made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path), callbacks=[noted])
    noted.made.train()
    (file,) = event_files(tmp_path)
    assert [s for tag, s, _ in scalars(file) if tag == "mine/step"] == list(range(1, 11))


def test_a_file_named_like_the_run_directory_stops_construction(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    args = arguments(TBTrainingArguments, tmp_path, logging_dir=str(tmp_path / "occupied" / "run"))
    with pytest.raises(ValueError, match=r"logging_dir=.*occupied"):
        trainer(TBTrainer, args)


def test_an_unwritable_default_directory_stops_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    assert "eval_loss" in made.evaluate()
    with pytest.raises(ValueError, match="logging_dir"):
        args = arguments(TBTrainingArguments, tmp_path, logging_dir=str(tmp_path / "named"))
        trainer(TBTrainer, args)


def test_a_pattern_without_a_match_names_parameters_that_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, histogram_include=["transfomer"])
    with caplog.at_level(logging.WARNING):
        trainer(TBTrainer, args)
    assert "histogram_include='transfomer' matches no parameter" in caplog.text
    assert "bert.embeddings" in caplog.text


def test_a_model_init_and_no_arguments_work_as_with_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = TBTrainer(model_init=lambda: classifier(), train_dataset=Sequences(8))
    assert made.args.output_dir


@pytest.mark.parametrize("errors", ["warn", "raise"])
def test_a_checkpoint_that_is_not_there_gives_stocks_error_alone(
    errors: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = str(tmp_path / "nowhere" / "checkpoint-3")
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        args = arguments(TrainingArguments, tmp_path / "stock")
        trainer(Trainer, args).train(resume_from_checkpoint=missing)
    args = arguments(TBTrainingArguments, tmp_path / "ours", telemetry_errors=errors)
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        trainer(TBTrainer, args).train(resume_from_checkpoint=missing)
    assert [r.message for r in caplog.records if r.name.startswith("tbtrainer")] == []
    assert list((tmp_path / "ours").iterdir()) == []
