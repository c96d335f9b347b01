"""Lines beside the event file: a fault of the disk costs a warning, and no line that fits."""

import copy
import errno
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.records import JsonLine, Scalar
from tbtrainer.run import RunSession
from tests.events import json_lines, steps_in
from tests.faults.disk import may_mount, small_disk, wait_until, without_room
from tests.faults.hung_directory import hung_directory, may_hang
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
NAME = "health.jsonl"


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def made(directory: Path) -> RunSession:
    """A run that is open, so that later only the lines use the disk."""
    run = RunSession(str(directory / "run"), str(directory), writes=True)
    run.write([Scalar("value", 1.0)], 1)
    run.flush(60.0)
    return run


def add(run: RunSession, steps: range, text: str = "") -> None:
    for step in steps:
        run.write([JsonLine(NAME, {"text": text})], step)


def steps(directory: Path) -> list[int]:
    file = directory / "run" / NAME
    return [values["step"] for values in json_lines(file)] if file.exists() else []


def pending(run: RunSession) -> int:
    assert run._run is not None
    return run._run.lines[NAME]._delivery.counters.pending


def of_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that name the file of lines."""
    return [message for message in caplog.messages if NAME in message]


def refused(*args: object, **kwargs: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.skipif(not may_mount(), reason="may not mount a file system")
def test_lines_wait_for_room_on_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as directory:
        run = made(directory)
        add(run, range(1))
        run.flush(60.0)
        with without_room(directory):
            add(run, range(1, 30))
            wait_until(lambda: "cannot be written" in caplog.text)
            assert steps(directory) == [0]
        wait_until(lambda: pending(run) == 0)
        run.close()
        assert steps(directory) == list(range(30))
    assert len(of_lines(caplog)) == 2  # When the fault begins, and when it ends.


def test_the_oldest_lines_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "replace", refused)
        add(run, range(1))
        wait_until(lambda: "cannot be written" in caplog.text)
        add(run, range(1, 150), text="words " * 2_000)
    run.close()
    kept = steps(tmp_path)
    # Those that are being written when the queue is full cannot be dropped.
    assert kept[-50:] == list(range(100, 150))
    assert len(kept) < 90
    assert f"{150 - len(kept)} records of the run" in of_lines(caplog)[-1]


def test_lines_without_a_directory_are_in_a_fallback_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(LocalStorage, "replace", refused)
    run = made(tmp_path)
    add(run, range(3))
    run.close()
    (file,) = tmp_path.glob("tbtrainer-*/run/health.jsonl")
    assert [values["step"] for values in json_lines(file)] == [0, 1, 2]
    assert str(file) in caplog.text
    assert len(of_lines(caplog)) == 2  # When the fault begins, and at the close.
    assert steps_in(tmp_path) == [1]


def test_lines_without_any_place_are_counted_in_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(LocalStorage, "replace", refused)
    run = made(tmp_path)
    add(run, range(3))
    run.close()
    assert "3 records of the run" in of_lines(caplog)[-1]


def test_no_call_waits_for_a_file_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the limits for a disk that answers were used, the test would last an hour.
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    monkeypatch.setattr("tbtrainer.run.open_run.CLOSE_SECONDS", 3600.0)
    released, original = threading.Event(), LocalStorage.replace

    def hung(storage: LocalStorage, path: str, data: bytes, *settings: object) -> None:
        released.wait()
        original(storage, path, data, *settings)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "replace", hung)
    run = made(tmp_path)
    add(run, range(100))
    run.flush()
    run.flush(3600.0)
    run.release()
    run.close()
    assert of_lines(caplog) == [message for message in of_lines(caplog) if "100 rec" in message]
    assert len(of_lines(caplog)) == 1
    assert steps(tmp_path) == []
    released.set()
    wait_until(lambda: steps(tmp_path) == list(range(100)))


def test_a_log_call_waits_for_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, released, original = threading.Event(), threading.Event(), LocalStorage.replace

    def late(storage: LocalStorage, path: str, data: bytes, *settings: object) -> None:
        entered.set()
        assert released.wait(HANG_SECONDS)
        original(storage, path, data, *settings)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "replace", late)
    run = made(tmp_path)
    add(run, range(1))
    assert entered.wait(HANG_SECONDS)
    add(run, range(1, 3))
    run.flush()
    released.set()
    run.close()
    assert steps(tmp_path) == [0, 1, 2]


@pytest.mark.skipif(not may_hang(), reason="may not mount a FUSE file system")
def test_a_directory_that_hangs_delays_no_end_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    monkeypatch.setattr("tbtrainer.run.open_run.CLOSE_SECONDS", 3600.0)
    run = made(tmp_path)
    with hung_directory(tmp_path / "run"):
        add(run, range(3))
        run.flush(3600.0)
        run.close()
        assert "does not answer: 3 records" in caplog.text
    wait_until(lambda: pending(run) == 0)


def test_lines_are_written_when_a_process_ends(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.faults.test_json_lines import add, made
run = made(Path({str(tmp_path)!r}))
add(run, range(5))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=HANG_SECONDS, cwd=ROOT)
    assert steps(tmp_path) == list(range(5))


# ---- Copies ----


@pytest.mark.parametrize("copied", [lambda r: pickle.loads(pickle.dumps(r)), copy.deepcopy])
def test_a_copy_of_a_run_writes_no_line(
    copied: Callable[[RunSession], RunSession], tmp_path: Path
) -> None:
    run = made(tmp_path)
    add(run, range(2))
    other = copied(run)
    add(other, range(10, 12))
    other.flush(1.0)
    other.close()
    add(run, range(2, 4))
    run.close()
    assert steps(tmp_path) == list(range(4))


def test_a_forked_child_writes_no_line(tmp_path: Path) -> None:
    run = made(tmp_path)
    add(run, range(2))
    child = os.fork()
    if child == 0:
        add(run, range(10, 12))
        run.flush(1.0)
        run.close()
        os._exit(0)
    os.waitpid(child, 0)
    add(run, range(2, 4))
    run.close()
    assert steps(tmp_path) == list(range(4))


def test_a_killed_write_leaves_a_readable_file(tmp_path: Path) -> None:
    """A process that is killed before the new file has its name leaves the old one."""
    run = made(tmp_path)
    add(run, range(2))
    run.close()
    child = os.fork()
    if child == 0:
        os.replace = lambda *args: os._exit(9)  # type: ignore[assignment]
        LocalStorage(str(tmp_path / "run")).replace(NAME, b"half")
    os.waitpid(child, 0)
    assert steps(tmp_path) == [0, 1]
