"""A mount whose every call hangs, not only writes, delays nobody and loses no record."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tbtrainer.run import Counters, RunWriter
from tests.events import steps_in
from tests.faults import disk, fuse
from tests.faults.hung_training import SAVING
from tests.limits import HANG_SECONDS
from tests.tiny import arguments, trainer

ROOT = Path(__file__).parents[2]
STEPS = 10


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[fuse.HangingDisk]:
    reason = fuse.why_not_mountable()
    if reason is not None:
        pytest.skip(reason)
    with fuse.hanging_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after the training without any telemetry."""
    directory = tmp_path_factory.mktemp("stock")
    stock = trainer(Trainer, arguments(TrainingArguments, directory, logging_steps=1, **SAVING))
    stock.train()
    return stock.model.state_dict()


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process, which is killed if it does not end."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def training(hung: fuse.HangingDisk, hang_step: int, answer_step: int, end: str) -> list[object]:
    """The command of a training whose run directory is on the disk that hangs."""
    output = hung.directory.parent / "output"
    run = hung.directory / "run"
    program = "tests.faults.hung_training"
    return ["-m", program, run, output, hung.server, hang_step, answer_step, end]


@pytest.mark.parametrize(
    ("hang_step", "answer_step"),
    [(3, 8), (3, 0), (STEPS, 0)],
    ids=["in the middle", "for ever", "at the last checkpoint"],
)
def test_a_hanging_mount_changes_no_training(
    hang_step: int,
    answer_step: int,
    hung: fuse.HangingDisk,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    with started(*training(hung, hang_step, answer_step, "answer")) as process:
        out, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    assert "pending=0, dropped=0" in out
    weights = torch.load(tmp_path / "output" / "weights.pt")
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    for step in (5, STEPS):
        assert (tmp_path / "output" / f"checkpoint-{step}" / "model.safetensors").is_file()
    assert steps_in(hung.directory, "train/loss") == list(range(1, STEPS + 1))


def test_a_training_on_a_hanging_mount_ends_by_sigterm(hung: fuse.HangingDisk) -> None:
    with started(*training(hung, 3, 0, "wait")) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "waits\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_SECONDS) == -signal.SIGTERM


def test_a_training_on_a_hanging_mount_ends_with_its_process(hung: fuse.HangingDisk) -> None:
    with started(*training(hung, STEPS, 0, "exit")) as process:
        out, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    assert "trained" in out
    assert "does not answer" in errors


def test_no_call_of_a_writer_waits_for_a_hanging_mount(
    hung: fuse.HangingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the limits for a disk that answers were used, the test would last an hour.
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    monkeypatch.setattr("tbtrainer.event_file.waiting.LOG_SECONDS", 3600.0)
    writer = RunWriter(str(hung.directory / "run"))
    writer.add_scalar("value", 0, 0)
    writer.flush()
    hung.hang()
    try:
        for step in range(1, 100):
            writer.add_scalar("value", step, step)
            writer.flush()
        writer.flush(3600.0)
        writer.close()
        assert writer.counters == Counters(written=1, pending=99, dropped=0)
    finally:
        hung.answer()
    disk.wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    assert writer.counters == Counters(written=100, pending=0, dropped=0)
    assert steps_in(hung.directory, "value") == list(range(100))


def test_a_file_that_hangs_in_close_is_not_waited_for(
    hung: fuse.HangingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    writer = RunWriter(str(hung.directory / "run"))
    writer.add_scalar("value", 0, 0)
    writer.flush(3600.0)
    close, hangs = writer._events._delivery._file.close, threading.Event()

    def hang_and_close() -> None:
        hung.hang()
        hangs.set()
        os.stat(hung.directory)
        close()

    monkeypatch.setattr(writer._events._delivery._file, "close", hang_and_close)
    try:
        writer.close()
        assert hangs.wait(HANG_SECONDS)
    finally:
        hung.answer()
