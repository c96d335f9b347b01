"""A resumed training goes on in its run, and every loader shows each step once."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, histograms, scalars, text
from tests.limits import HANG_SECONDS
from tests.tensorboard_server import tensorboard
from tests.tiny import Sequences, arguments, classifier, trainer

SAVING = {"save_strategy": "steps", "save_steps": 4, "histogram_steps": 3}


class Crash(Exception):
    pass


class CrashAt(TrainerCallback):
    """Ends a training after a step, with a tag that no later session logs again."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.trainer: TBTrainer | None = None

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if state.global_step == self.step:
            self.trainer.writer.add_scalar("orphan", 1.0, self.step)
            raise Crash


def crashed(directory: Path, step: int, resume: str | bool | None = None, **changes: Any) -> None:
    crash = CrashAt(step)
    args = arguments(TBTrainingArguments, directory, **SAVING, **changes)
    crash.trainer = trainer(TBTrainer, args, callbacks=[crash])
    with pytest.raises(Crash):
        crash.trainer.train(resume_from_checkpoint=resume)


def resumed(directory: Path, checkpoint: str | bool = True, **changes: Any) -> TBTrainer:
    args = arguments(TBTrainingArguments, directory, **{**SAVING, **changes})
    made = trainer(TBTrainer, args)
    made.train(resume_from_checkpoint=checkpoint)
    return made


def all_scalars(directory: Path) -> list[tuple[str, int, float]]:
    return [record for file in event_files(directory) for record in scalars(file)]


def test_a_run_crashed_twice_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path / "whole", **SAVING))
    whole.train()
    crashed(tmp_path / "broken", 7)
    crashed(tmp_path / "broken", 9, resume=True)
    resumed(tmp_path / "broken")

    timed = ("runtime", "per_second")
    # What depends on time and on the process.
    groups = ("tbtrainer/", "throughput/", "step_phases/", "memory/")
    expected, actual = (
        sorted(
            record
            for record in all_scalars(tmp_path / name)
            if not record[0].endswith(timed) and not record[0].startswith(groups)
        )
        for name in ("whole", "broken")
    )
    # `Trainer` averages the loss of a resumed training over the steps of its last part.
    assert [r for r in actual if r[0] != "train/train_loss"] == [
        r for r in expected if r[0] != "train/train_loss"
    ]
    shown = [key for file in event_files(tmp_path / "broken") for key in histograms(file)]
    assert len(shown) == len(set(shown))
    assert {step for _, step in shown} == {3, 6, 9, 10}


def test_a_resumed_run_shows_each_step_once_in_every_loader(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    run = Path(resumed(tmp_path).writer.log_dir)
    assert {file.parent for file in event_files(tmp_path)} == {run}

    accumulator = EventAccumulator(str(run)).Reload()
    assert [e.step for e in accumulator.Scalars("train/loss")] == [2, 4, 6, 8, 10]
    assert "orphan" not in accumulator.Tags()["scalars"]
    for load_fast in (True, False):
        with tensorboard(run, load_fast=load_fast) as server:
            server.wait_for("scalars", "train/train_loss")
            points = server.ask("plugin/scalars/scalars", run=".", tag="train/loss")
            assert [step for _, step, _ in points] == [2, 4, 6, 8, 10]
            assert "orphan" not in server.tags("scalars")


def test_what_was_taken_out_is_kept_beside(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    made = resumed(tmp_path)
    run = Path(made.writer.log_dir)
    kept = [p for p in run.glob("*removed-after-4*") if not p.name.startswith("blocks-")]
    assert len(kept) == 1
    assert ("orphan", 7, 1.0) in scalars(kept[0])


def test_a_new_run_when_asked_for(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    resumed(tmp_path, run_resume="new", logging_dir=str(tmp_path / "second"))
    first = {r[1] for f in event_files(tmp_path / "runs") for r in scalars(f)}
    assert 7 in first
    second = {r[1] for f in event_files(tmp_path / "second") for r in scalars(f)}
    assert min(second) > 4


def test_a_stock_checkpoint_begins_a_run_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TrainingArguments, tmp_path, save_strategy="steps", save_steps=4, max_steps=8)
    trainer(Trainer, args).train()
    with caplog.at_level(logging.WARNING):
        resumed(tmp_path, checkpoint=str(tmp_path / "checkpoint-4"))
    assert caplog.text.count("no readable tensorboard_run.json") == 1
    assert [r[1] for r in all_scalars(tmp_path) if r[0] == "train/loss"] == [6, 8, 10]


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_the_best_model_is_loaded_after_one_clean_curve(strategy: str, tmp_path: Path) -> None:
    changes = {
        "save_strategy": strategy,
        "eval_strategy": strategy,
        "eval_steps": 4,
        "load_best_model_at_end": True,
        "max_steps": -1,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
    }
    args = arguments(TBTrainingArguments, tmp_path, **{**SAVING, **changes})
    crash = CrashAt(7)
    crash.trainer = trainer(TBTrainer, args, callbacks=[crash])
    with pytest.raises(Crash):
        crash.trainer.train()
    made = resumed(tmp_path, **changes)
    assert made.state.best_model_checkpoint is not None
    shown = all_scalars(tmp_path)
    for tag, steps in (("train/loss", [2, 4, 6, 8, 10, 12]), ("eval/loss", [4, 8, 12])):
        assert [step for name, step, _ in shown if name == tag] == steps
    assert "orphan" not in {name for name, _, _ in shown}


def test_a_run_moved_with_its_checkpoints_continues_there(tmp_path: Path) -> None:
    crashed(tmp_path / "before", 7)
    (tmp_path / "before").rename(tmp_path / "after")
    made = resumed(tmp_path / "after")
    assert Path(made.writer.log_dir).is_relative_to(tmp_path / "after")
    assert not (tmp_path / "before").exists()
    steps = [step for tag, step, _ in all_scalars(tmp_path) if tag == "train/loss"]
    assert steps == [2, 4, 6, 8, 10]


def test_a_branch_of_a_training_leaves_the_first_run_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashed(tmp_path / "parent", 7)
    before = all_scalars(tmp_path / "parent")
    made = resumed(tmp_path / "branch", checkpoint=str(tmp_path / "parent" / "checkpoint-4"))
    assert Path(made.writer.log_dir).is_relative_to(tmp_path / "branch")
    assert all_scalars(tmp_path / "parent") == before
    assert caplog.text.count("is left as it is") == 1


def test_a_checkpoint_copied_beside_another_run_does_not_rewind_that(tmp_path: Path) -> None:
    for name in ("one", "other"):
        crashed(tmp_path / name, 7, logging_dir=str(tmp_path / name / "logs"))
    before = all_scalars(tmp_path / "other" / "logs")
    shutil.rmtree(tmp_path / "other" / "checkpoint-4")
    shutil.copytree(tmp_path / "one" / "checkpoint-4", tmp_path / "other" / "checkpoint-4")
    made = resumed(tmp_path / "other", logging_dir=str(tmp_path / "other" / "logs"))
    assert all_scalars(tmp_path / "other" / "logs") == before
    assert made.writer.log_dir == str(tmp_path / "other" / "logs-1")


def test_a_checkpoint_without_marker_continues_its_neighbours_run(tmp_path: Path) -> None:
    crashed(tmp_path, 9)
    (tmp_path / "checkpoint-8" / "tensorboard_run.json").unlink()
    resumed(tmp_path)
    assert len({file.parent for file in event_files(tmp_path)}) == 1
    steps = [step for tag, step, _ in all_scalars(tmp_path) if tag == "train/loss"]
    assert steps == [2, 4, 6, 8, 10]


def test_an_evaluation_after_the_runs_were_deleted_begins_again(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    made.train()
    shutil.rmtree(tmp_path / "runs")
    made.evaluate()
    assert [step for tag, step, _ in all_scalars(tmp_path) if tag == "eval/loss"] == [10]


def test_a_second_training_in_one_process_is_a_second_run(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    made.train()
    first = made.writer.log_dir
    made.train()
    assert made.writer.log_dir != first
    for directory in (first, made.writer.log_dir):
        steps = [r[1] for r in all_scalars(Path(directory)) if r[0] == "train/loss"]
        assert steps == [2, 4, 6, 8, 10]


TERMINATED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from tbtrainer import TBTrainer, TBTrainingArguments
from tests.tiny import arguments, trainer

class Terminate(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            made.writer.add_scalar("last", 1.0, 7)
            os.kill(os.getpid(), signal.SIGTERM)

if sys.argv[2] == "handled":
    signal.signal(signal.SIGTERM, lambda *_: (print("handled", flush=True), os._exit(3)))
args = arguments(TBTrainingArguments, Path(sys.argv[1]))
made = trainer(TBTrainer, args, callbacks=[Terminate()])
made.train()
"""


@pytest.mark.parametrize(("kind", "code"), [("default", -signal.SIGTERM), ("handled", 3)])
def test_sigterm_flushes_and_then_does_what_it_did_before(
    kind: str, code: int, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(tmp_path), kind],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == code, done.stderr
    assert ("handled" in done.stdout) == (kind == "handled")
    assert ("last", 7, 1.0) in all_scalars(tmp_path)


@pytest.mark.parametrize("named", [False, True], ids=["numbered", "named"])
def test_every_trial_of_a_search_has_its_own_run(named: bool, tmp_path: Path) -> None:
    made = TBTrainer(
        model_init=lambda: classifier(),
        args=arguments(TBTrainingArguments, tmp_path, logging_dir=str(tmp_path / "search")),
        train_dataset=Sequences(64),
        eval_dataset=Sequences(16, seed=1),
    )
    made.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        hp_name=(lambda trial: f"trial-{trial.number}") if named else None,
        backend="optuna",
        n_trials=2,
    )
    names = ["trial-0", "trial-1"] if named else ["run-0", "run-1"]
    assert sorted(path.name for path in (tmp_path / "search").iterdir()) == names
    rates = set()
    for name in names:
        (file,) = event_files(tmp_path / "search" / name)
        assert [step for tag, step, _ in scalars(file) if tag == "train/loss"] == [2, 4, 6, 8, 10]
        rates |= {value for tag, step, value in scalars(file) if tag == "train/learning_rate"}
        assert "learning_rate" in text(file, "args/text_summary")
    assert len(rates) > 5
