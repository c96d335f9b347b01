"""However a training ends, its run is complete, and nothing of it stays open."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, scalars
from tests.tiny import Sequences, arguments, trainer

LAST = 7


class Crash(Exception):
    pass


class RaiseAt(TrainerCallback):
    """Ends a training after the last step, when that has been written."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if state.global_step == LAST:
            raise self.error


class DeadlyWorker(Sequences):
    """Ends the process that loads one of its rows."""

    def __getitem__(self, index: int) -> dict:
        if index == 13:
            os._exit(1)
        return super().__getitem__(index)


def open_event_files() -> list[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if "tfevents" in target]


@pytest.fixture
def left_behind() -> Callable[[], tuple[list[str], list[str]]]:
    """Threads and event files that are open and were not before."""
    before, files_before = set(threading.enumerate()), set(open_event_files())

    def found() -> tuple[list[str], list[str]]:
        threads = [t.name for t in threading.enumerate() if t not in before]
        files = [file for file in open_event_files() if file not in files_before]
        return [name for name in threads if name.startswith("tbtrainer")], files

    return found


def losses(directory: Path) -> list[int]:
    (file,) = event_files(directory)
    return [step for tag, step, _ in scalars(file) if tag == "train/loss"]


@pytest.mark.parametrize(
    "error", [Crash("a step"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
def test_an_error_passes_unchanged_and_the_run_is_complete(
    error: BaseException, left_behind: Callable[[], tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, histogram_steps=1)
    made = trainer(TBTrainer, args, callbacks=[RaiseAt(error)])
    with pytest.raises(type(error)) as raised:
        made.train()
    assert raised.value is error
    assert left_behind() == ([], [])
    assert losses(tmp_path) == [2, 4, 6]
    assert made.writer.counters.pending == 0


def test_a_worker_that_dies_leaves_the_run_complete(
    left_behind: Callable[[], tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    args = arguments(
        TBTrainingArguments, tmp_path, logging_steps=1, dataloader_num_workers=1, seed=1
    )
    made = trainer(TBTrainer, args, train_dataset=DeadlyWorker(64))
    # Which of them torch raises depends on whether the death or the end of its pipe is seen first.
    with pytest.raises((RuntimeError, ConnectionResetError), match="exited unexpect|reset by peer"):
        made.train()
    assert left_behind() == ([], [])
    shown = losses(tmp_path)
    assert shown == list(range(1, len(shown) + 1))
    # The death is told by a signal, which may come between a step and its log entry.
    assert made.state.global_step - len(shown) in (0, 1)


def test_an_evaluation_after_training_closes_the_same_file(
    left_behind: Callable[[], tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path))
    made.train()
    made.evaluate()
    assert left_behind() == ([], [])
    (file,) = event_files(tmp_path)
    assert [step for tag, step, _ in scalars(file) if tag == "eval/loss"] == [10]
