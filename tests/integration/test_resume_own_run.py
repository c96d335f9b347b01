"""A resumed training continues its own run, and touches no other directory."""

import json
import logging
import os
import shutil
import socket
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, texts
from tests.integration.test_resume import SAVING, all_scalars, crashed, resumed
from tests.tiny import arguments, trainer

MARKER = "tensorboard_run.json"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def loss_steps(directory: Path) -> list[int]:
    return [step for tag, step, _ in all_scalars(directory) if tag == "train/loss"]


def change_marker(checkpoint: Path, **changes: object) -> None:
    values = json.loads((checkpoint / MARKER).read_text())
    (checkpoint / MARKER).write_text(json.dumps({**values, **changes}))


@pytest.fixture
def run_of_another(tmp_path: Path) -> Path:
    writer = SummaryWriter(str(tmp_path / "victim"))
    for step in range(100):
        writer.add_scalar("precious", step, step)
    writer.close()
    return tmp_path / "victim"


# ---- Checkpoints of somebody else ----


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("run_id", ["", "forged"])
def test_a_forged_marker_reaches_no_directory_of_others(
    run_id: str, relative: bool, run_of_another: Path, tmp_path: Path
) -> None:
    crashed(tmp_path / "out", 7)
    place = "../../victim" if relative else str(run_of_another)
    directories = {"run_directory": place, "relative_directory": place}
    known = "0" * 32
    (run_of_another / ".tbtrainer-run").write_text(known)
    before = contents(run_of_another)
    changes = {**directories, "run_id": known if run_id else "", "step": 0}
    change_marker(tmp_path / "out" / "checkpoint-4", **changes)
    resumed(tmp_path / "out")
    assert contents(run_of_another) == before


def test_a_forged_url_is_never_connected_to(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ftp://127.0.0.1:{server.getsockname()[1]}/run"
        for run_id in ("", "0" * 32):
            change_marker(tmp_path / "checkpoint-4", run_directory=url, run_id=run_id)
            server.settimeout(0.0)
            resumed(tmp_path, checkpoint=str(tmp_path / "checkpoint-4"), max_steps=6)
            with pytest.raises(BlockingIOError):
                server.accept()


@pytest.mark.parametrize("step", [2**70, -1, True, 4.0, 3])
def test_an_invalid_step_does_not_stop_the_run(step: object, tmp_path: Path) -> None:
    crashed(tmp_path, 9)
    change_marker(tmp_path / "checkpoint-8", step=step)
    resumed(tmp_path)
    assert len({file.parent for file in event_files(tmp_path)}) == 1
    assert loss_steps(tmp_path) == [2, 4, 6, 8, 10]


# ---- Branches ----


def test_a_checkpoint_copied_to_another_output_dir_begins_a_run(tmp_path: Path) -> None:
    crashed(tmp_path / "parent", 7)
    before = contents(tmp_path / "parent")
    shutil.copytree(tmp_path / "parent" / "checkpoint-4", tmp_path / "branch" / "checkpoint-4")
    made = resumed(tmp_path / "branch")
    assert contents(tmp_path / "parent") == before
    assert Path(made.writer.log_dir).is_relative_to(tmp_path / "branch" / "runs")


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_branch_in_the_same_logging_dir_begins_a_run(
    by_environment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    changes = {} if by_environment else {"logging_dir": str(logs)}
    if by_environment:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
    crashed(tmp_path / "parent", 7, **changes)
    before = contents(logs)
    shutil.copytree(tmp_path / "parent" / "checkpoint-4", tmp_path / "branch" / "checkpoint-4")
    made = resumed(tmp_path / "branch", **changes)
    assert contents(logs) == before
    assert made.writer.log_dir == f"{logs}-1"
    # The parent continues in its own.
    assert resumed(tmp_path / "parent", **changes).writer.log_dir == str(logs)


def test_a_copy_of_output_dir_continues_in_its_own_copy(tmp_path: Path) -> None:
    crashed(tmp_path / "parent", 7)
    shutil.copytree(tmp_path / "parent", tmp_path / "copy")
    before = contents(tmp_path / "parent")
    resumed(tmp_path / "copy")
    assert contents(tmp_path / "parent") == before
    assert loss_steps(tmp_path / "copy") == [2, 4, 6, 8, 10]
    assert len({file.parent for file in event_files(tmp_path / "copy")}) == 1


# ---- Markers that are missing, broken or empty ----


def test_a_broken_marker_falls_back_to_the_checkpoint_beside(tmp_path: Path) -> None:
    crashed(tmp_path, 9)
    (tmp_path / "checkpoint-8" / MARKER).write_text("{")
    resumed(tmp_path)
    assert loss_steps(tmp_path) == [2, 4, 6, 8, 10]
    assert len({file.parent for file in event_files(tmp_path)}) == 1


@pytest.mark.parametrize("named", [False, True])
def test_the_only_checkpoint_without_a_marker_continues_its_run(
    named: bool, tmp_path: Path
) -> None:
    changes = {"logging_dir": str(tmp_path / "logs")} if named else {}
    crashed(tmp_path, 9, save_total_limit=1, **changes)
    listing = {path.name for path in tmp_path.iterdir()}
    assert listing == {"checkpoint-8", "logs" if named else "runs"}
    for crash in (9, 10):  # Killed at the same moment again, in the continued run.
        (tmp_path / "checkpoint-8" / MARKER).unlink(missing_ok=True)
        crashed(tmp_path, crash, resume=True, save_total_limit=1, **changes)
    resumed(tmp_path, save_total_limit=1, **changes)
    assert loss_steps(tmp_path) == [2, 4, 6, 8, 10]
    assert len({file.parent for file in event_files(tmp_path)}) == 1


def test_an_evaluation_is_not_taken_for_a_checkpoints_run(tmp_path: Path) -> None:
    crashed(tmp_path, 9, save_total_limit=1)
    trained = {file.parent for file in event_files(tmp_path)}
    (tmp_path / "checkpoint-8" / MARKER).unlink()
    trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path)).evaluate()
    assert {Path(resumed(tmp_path).writer.log_dir)} == trained


def test_a_checkpoint_of_a_deleted_run_begins_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Delete(TrainerCallback):
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            if state.global_step == 3:
                shutil.rmtree(tmp_path / "runs")

    args = arguments(TBTrainingArguments, tmp_path, **SAVING, max_steps=8)
    trainer(TBTrainer, args, callbacks=[Delete()]).train()
    shutil.rmtree(tmp_path / "runs")
    with caplog.at_level(logging.WARNING):
        resumed(tmp_path)
    assert caplog.text.count("continues from the checkpoint and begins a new run") == 1
    assert loss_steps(tmp_path) == [10]


# ---- The directory stays where it was chosen ----


def test_a_training_that_changes_its_working_directory_has_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    class Leave(TrainerCallback):
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            if state.global_step == 5:
                os.chdir(tmp_path / "elsewhere")

    args = arguments(TBTrainingArguments, Path("out"))
    trainer(TBTrainer, args, callbacks=[Leave()]).train()
    assert loss_steps(tmp_path / "out") == [2, 4, 6, 8, 10]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_run_follows_an_output_dir_changed_before_training(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path / "before"))
    made.args.output_dir = str(tmp_path / "after")
    made.train()
    assert Path(made.writer.log_dir).parent == tmp_path / "after" / "runs"
    assert event_files(tmp_path / "before") == []


def test_arguments_and_configuration_are_shown_once_over_resumes(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    crashed(tmp_path, 9, resume=True)
    resumed(tmp_path)
    shown = [tag for file in event_files(tmp_path) for tag, _ in texts(file)]
    assert shown.count("args/text_summary") == 1
    assert shown.count("model_config/text_summary") == 1


def test_a_pipe_named_like_an_event_file_stops_no_resume(tmp_path: Path) -> None:
    crashed(tmp_path, 7)
    (run,) = {file.parent for file in event_files(tmp_path)}
    os.mkfifo(run / "events.out.tfevents.1.pipe")
    resumed(tmp_path)
    (run / "events.out.tfevents.1.pipe").unlink()
    assert loss_steps(run) == [2, 4, 6, 8, 10]
