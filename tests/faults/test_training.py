"""Whatever happens to the telemetry, the training ends with the weights it would have had."""

import errno
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import tbtrainer.telemetry
from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.observers import snapshot_records, watched_tensors
from tests.events import event_files, scalars
from tests.faults import disk
from tests.tiny import arguments, trainer

SAVING = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
FAULT_BEGINS, FAULT_ENDS = 3, 8
STEPS = 10


class During(TrainerCallback):
    """A fault that begins after one step and is over after another."""

    def __init__(self, fault: Callable[[], AbstractContextManager[None]]) -> None:
        self.fault = fault
        self.lasting: AbstractContextManager[None] = nullcontext()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if state.global_step == FAULT_BEGINS:
            self.lasting = self.fault()
            self.lasting.__enter__()
        if state.global_step == FAULT_ENDS:
            self.end()

    def end(self) -> None:
        self.lasting.__exit__(None, None, None)
        self.lasting = nullcontext()


class Nonsense(TrainerCallback):
    """What a user may hand to the writer at every step."""

    writer: torch.utils.tensorboard.SummaryWriter

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        step = state.global_step
        self.writer.add_scalar("object", object(), step)
        self.writer.add_scalar("surrogate \udcff", 1.0, step)
        self.writer.add_scalar("huge", 10**400, step)
        self.writer.add_histogram("nothing", torch.empty(0), step)
        self.writer.add_image("no picture", torch.zeros(5), step)
        self.writer.add_text("no text", None, step)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after the training without any telemetry."""
    directory = tmp_path_factory.mktemp("stock")
    stock = trainer(Trainer, arguments(TrainingArguments, directory, **SAVING))
    stock.train()
    return stock.model.state_dict()


def trained(directory: Path, expected: dict[str, torch.Tensor], **changes: Any) -> TBTrainer:
    """Trains with telemetry, and compares the weights."""
    callbacks = changes.pop("callbacks", [])
    values = {"logging_dir": str(directory / "run"), "histogram_steps": 1, **SAVING, **changes}
    made = trainer(TBTrainer, arguments(TBTrainingArguments, directory, **values))
    for callback in callbacks:
        callback.writer = made.writer
        made.add_callback(callback)
    made.train()
    weights = made.model.state_dict()
    assert made.state.global_step == STEPS
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert (directory / f"checkpoint-{STEPS}" / "model.safetensors").is_file()
    return made


def losses(*places: Path) -> list[int]:
    return sorted(
        step
        for place in places
        for file in event_files(place)
        for tag, step, _ in scalars(file)
        if tag == "train/loss"
    )


@contextmanager
def lost(run: Path) -> Iterator[None]:
    """The mount of the run is gone, and does not come back."""
    disk.lose(run.parent)
    yield


@contextmanager
def deleted(run: Path) -> Iterator[None]:
    """The run directory was moved away: it is made again."""
    run.rename(run.parent / "moved")
    yield


@contextmanager
def replaced(run: Path) -> Iterator[None]:
    """A file stands where the run directory was."""
    run.rename(run.parent / "moved")
    run.write_text("no directory")
    yield
    run.unlink()


@contextmanager
def slow(run: Path) -> Iterator[None]:
    """Every write takes a tenth of a second."""
    with disk.writes(disk.slow):
        yield


@contextmanager
def hung(run: Path) -> Iterator[None]:
    """A write does not return before the fault is over."""
    released = threading.Event()
    with disk.writes(disk.hung(released)):
        yield
        released.set()


def injected(code: int) -> Callable[[Path], AbstractContextManager[None]]:
    return lambda run: disk.writes(disk.failing(code, torn=True))


FAULTS = {
    "full disk": lambda run: disk.without_room(run.parent),
    "lost mount": lost,
    "directory deleted": deleted,
    "directory replaced": replaced,
    "slow disk": slow,
    "hung disk": hung,
    "no space left": injected(errno.ENOSPC),
    "read-only": injected(errno.EROFS),
    "no permission": injected(errno.EACCES),
    "I/O error": injected(errno.EIO),
    "stale handle": injected(errno.ESTALE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_fault_changes_no_weight_and_loses_no_record(
    name: str, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    on_small_disk = name in ("full disk", "lost mount")
    if on_small_disk and not disk.may_mount():
        pytest.skip("a file system can be mounted by root alone")
    place.mkdir()
    run = place / "run"
    during = During(lambda: FAULTS[name](run))
    with disk.small_disk(place, "size=4m") if on_small_disk else nullcontext():
        made = trained(tmp_path, expected, logging_dir=str(run), callbacks=[during])
        during.end()
        counters = made.writer.counters
        assert (counters.pending, counters.dropped) == (0, 0)
        # What was written to a mount before it was lost went with it.
        steps = [4, 6, 8, 10] if name == "lost mount" else [2, 4, 6, 8, 10]
        assert losses(place) == steps
    if name not in ("slow disk", "hung disk"):
        assert counters.written > 100


@pytest.mark.parametrize("name", ["directory in the way", "name too long"])
def test_a_directory_that_can_never_be_made_changes_no_weight(
    name: str,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    if name == "name too long":
        # What a path may have in all is known to no check beforehand.
        run = tmp_path.joinpath(*["n" * 250] * 20)
    else:
        run = tmp_path / "run"
        # Somebody puts a file there after the check.
        check = tbtrainer.telemetry.RunSession.check
        monkeypatch.setattr(
            tbtrainer.telemetry.RunSession, "check", lambda s: (check(s), run.write_text("file"))
        )
    trained(tmp_path, expected, logging_dir=str(run))
    assert losses(elsewhere) == [2, 4, 6, 8, 10]
    assert str(event_files(elsewhere)[0]) in caplog.text


@pytest.mark.parametrize("place", ["take_snapshot", "histograms"])
def test_a_bug_in_the_telemetry_costs_one_warning_per_place(
    place: str,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a bug")

    module: Any = watched_tensors if place == "take_snapshot" else snapshot_records
    original = getattr(module, place)
    calls = iter([broken] * 5)
    monkeypatch.setattr(module, place, lambda *a, **k: next(calls, original)(*a, **k))
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        trained(tmp_path, expected)
    said = [r.getMessage() for r in caplog.records if "a bug" in r.getMessage()]
    assert len(said) == {"take_snapshot": 2, "histograms": 2}[place]
    assert losses(tmp_path) == [2, 4, 6, 8, 10]


def test_nonsense_given_to_the_writer_costs_one_warning_per_cause(
    expected: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        trained(tmp_path, expected, callbacks=[Nonsense()])
    said = [r.getMessage() for r in caplog.records if r.name == "tbtrainer.isolation"]
    assert len(said) == 6
    assert all(f"{__file__}:" in message for message in said)
    assert losses(tmp_path) == [2, 4, 6, 8, 10]


def test_values_that_cannot_be_shown_are_named_once(
    expected: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(TrainerCallback):
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            odd = {
                "object": object(),
                "huge": 10**400,
                "square": torch.ones(2, 2),
                "odd\udcff": 1.0,
            }
            made.log(odd)

    made = trainer(
        TBTrainer, arguments(TBTrainingArguments, tmp_path, logging_dir=str(tmp_path / "run"))
    )
    made.add_callback(Odd())
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        made.train()
    assert len([r for r in caplog.records if r.name == "tbtrainer.observers.log_entries"]) == 2
    assert len([r for r in caplog.records if r.name == "tbtrainer.isolation"]) == 1
    (file,) = event_files(tmp_path)
    huge = [(step, value) for tag, step, value in scalars(file) if tag == "train/huge"]
    assert huge == [(step, math.inf) for step in range(1, STEPS + 1)]


def test_a_rewind_on_a_full_disk_continues_with_a_warning(
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained(tmp_path, expected)
    shutil.rmtree(tmp_path / "checkpoint-10")

    def no_room(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tbtrainer.run.continuing.rewind", no_room)
    values = {"logging_dir": str(tmp_path / "run"), "histogram_steps": 1, **SAVING}
    again = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, **values))
    again.train(resume_from_checkpoint=True)
    assert again.writer.log_dir == str(tmp_path / "run")
    assert caplog.text.count("could not be taken out") == 1
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "checkpoint-10")
    trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, **values)).train(True)
    assert losses(tmp_path) == [2, 4, 6, 8, 10]
