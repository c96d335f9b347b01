"""A checkpoint names its run before it can be the only one that is left."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.trainer
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from tbtrainer import TBTrainer, TBTrainerMixin, TBTrainingArguments
from tests.events import event_files, scalars
from tests.limits import HANG_SECONDS
from tests.tiny import arguments, trainer

MARKER = "tensorboard_run.json"
SAVING = {"save_strategy": "steps", "save_steps": 5}


def die_after_rotation(kill_at: int) -> None:
    """Ends the process at a step, when stock has removed the earlier checkpoints.

    That is the last thing that stock's `_save_checkpoint` does: by a function in transformers 5.x,
    by a method in 4.57.
    """
    place: Any = transformers.trainer
    name = "rotate_checkpoints"
    if not hasattr(place, name):
        place, name = Trainer, "_rotate_checkpoints"
    rotate = getattr(place, name)

    def rotate_and_die(*args: Any, **kwargs: Any) -> None:
        rotate(*args, **kwargs)
        if os.path.isdir(os.path.join(kwargs["output_dir"], f"checkpoint-{kill_at}")):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, name, rotate_and_die)


def train_until_killed(directory: str, kill_at: str) -> None:
    """What the child process does."""
    args = arguments(
        TBTrainingArguments,
        Path(directory),
        max_steps=16,
        logging_steps=1,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        histogram_strategy="no",
    )
    die_after_rotation(int(kill_at))
    trainer(TBTrainer, args).train(resume_from_checkpoint=get_last_checkpoint(directory))


def test_kills_during_saving_leave_one_curve(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    for kill_at in (4, 8, -1):
        command = [sys.executable, "-c", "import sys; from tests.integration.test_checkpoints"]
        command[-1] += " import train_until_killed as run; run(*sys.argv[1:])"
        done = subprocess.run(
            [*command, str(directory), str(kill_at)],
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        expected = 0 if kill_at < 0 else -signal.SIGKILL
        assert done.returncode == expected, done.stderr
        assert "a new one begins" not in done.stderr
    files = event_files(directory)
    assert len({file.parent for file in files}) == 1
    steps = [step for file in files for tag, step, _ in scalars(file) if tag == "train/loss"]
    assert sorted(steps) == list(range(1, 17))


def test_the_marker_is_there_before_a_push_begins(tmp_path: Path) -> None:
    seen = []

    class Pushing(TBTrainer):
        def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
            seen.append(sorted(os.listdir(checkpoint_folder)))

        def init_hf_repo(self, token: str | None = None) -> None:
            pass

    args = arguments(
        TBTrainingArguments,
        tmp_path,
        **SAVING,
        push_to_hub=True,
        hub_strategy="checkpoint",
        hub_model_id="nobody/nothing",
    )
    trainer(Pushing, args).train()
    assert len(seen) == 2
    for names in seen:
        assert MARKER in names
        assert "trainer_state.json" in names


@pytest.mark.parametrize("only_model", [False, True])
def test_every_checkpoint_is_marked_with_its_step(only_model: bool, tmp_path: Path) -> None:
    made = trainer(
        TBTrainer, arguments(TBTrainingArguments, tmp_path, **SAVING, save_only_model=only_model)
    )
    made.train()
    for step in (5, 10):
        marker = json.loads((tmp_path / f"checkpoint-{step}" / MARKER).read_text())
        assert marker["step"] == step
        assert marker["run_directory"] == str(made.writer.log_dir)
    made.save_model(str(tmp_path / "final"))
    assert MARKER not in os.listdir(tmp_path / "final")


class SavesNothingAtFirst(Trainer):
    """As under FSDP with sharded states: `save_model` writes nothing and makes no directory."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        pass

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        os.makedirs(output_dir, exist_ok=True)
        super()._save_optimizer_and_scheduler(output_dir)


class SavesNothingWithTensorBoard(TBTrainerMixin, SavesNothingAtFirst):
    pass


def test_a_checkpoint_without_a_model_file_is_marked(tmp_path: Path) -> None:
    args = arguments(TBTrainingArguments, tmp_path, **SAVING, telemetry_errors="raise")
    trainer(SavesNothingWithTensorBoard, args).train()
    assert MARKER in os.listdir(tmp_path / "checkpoint-5")
    assert "trainer_state.json" in os.listdir(tmp_path / "checkpoint-5")


class SavesElsewhere(Trainer):
    """Writes what it keeps to a place of its own."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        self.save_model(os.path.join(self.args.output_dir, "mine", f"at-{self.state.global_step}"))


class ElsewhereWithTensorBoard(TBTrainerMixin, SavesElsewhere):
    pass


@pytest.mark.parametrize("errors", ["warn", "raise"])
def test_a_trainer_that_saves_elsewhere_is_left_alone(
    errors: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, **SAVING, telemetry_errors=errors)
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        trainer(ElsewhereWithTensorBoard, args).train()
    assert [r.message for r in caplog.records if r.name.startswith("tbtrainer")] == []
    assert list(tmp_path.rglob(f"{MARKER}*")) == []
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"at-5", "at-10"}
    assert not list(tmp_path.glob("checkpoint-*"))
    tags = {tag for file in event_files(tmp_path) for tag, _, _ in scalars(file)}
    assert "train/loss" in tags
    assert not any(tag.startswith("checkpoint/") for tag in tags)
