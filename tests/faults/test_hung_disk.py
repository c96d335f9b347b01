"""A slow disk and one that hangs delay no caller, and what it takes later is complete."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tbtrainer.event_file import waiting
from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.run import RunWriter
from tests.events import steps_in
from tests.faults import disk
from tests.faults.disk import wait_until
from tests.limits import HANG_SECONDS
from tests.offering import offer

ROOT = Path(__file__).parents[2]


def test_a_log_call_waits_for_no_slow_disk(tmp_path: Path) -> None:
    with disk.writes(disk.slow):
        writer = RunWriter(str(tmp_path))
        offer(writer, range(40))
        for step in range(40, 45):  # Each is written by itself.
            writer.add_scalar("value", step, step)
            wait_until(lambda: writer.counters.pending == 0)
        assert writer._events._delivery._waiting.log_seconds() == 0
        writer.close()
    assert steps_in(tmp_path) == list(range(45))


def test_no_call_waits_for_a_hung_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the limits for a disk that answers were used, the test would last an hour.
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    released = threading.Event()
    with disk.writes(disk.hung(released)), caplog.at_level(logging.WARNING):
        writer = RunWriter(str(tmp_path))
        for step in range(100):
            offer(writer, range(step, step + 1))
        writer.flush(3600.0)
        writer.add_scalars("several", {"a": 1.0, "b": 2.0}, 100)
        writer.close()
        writer.close()
        assert writer.counters == Counters(written=0, pending=102, dropped=0)
    assert "does not answer: 100 records" in caplog.text
    assert caplog.text.count("does not answer") == 3
    released.set()
    wait_until(lambda: writer.counters == Counters(written=102, pending=0, dropped=0))


def test_the_waits_for_a_hung_disk_are_below_two_seconds() -> None:
    # A log call, a checkpoint and the end wait for it: the first until it counts as hung.
    assert waiting.LOG_SECONDS + waiting.CHECKPOINT_SECONDS + waiting.HUNG_SECONDS < 2


def test_the_end_of_a_process_skips_only_a_hung_disk(tmp_path: Path) -> None:
    program = f"""
import os, threading
from tbtrainer.event_file import delivery, local_file
from tbtrainer.run import RunWriter
from tests.faults import disk

# If it were used for the hung disk, the process would last an hour.
delivery.CLOSE_SECONDS = 3600.0
hung, quick = RunWriter({str(tmp_path / "hung")!r}), RunWriter({str(tmp_path / "quick")!r})
for step in range(1000):
    quick.add_scalar("value", step, step)
RunWriter({str(tmp_path / "forgotten")!r}).add_scalar("value", 1.0, 1)
quick.flush(0.8)
blocked = disk.hung(threading.Event())
local_file.os_write = lambda descriptor, data: (
    blocked(descriptor, data) if threading.current_thread() is hung._events._delivery._thread
    else os.write(descriptor, data)
)
hung.add_scalar("value", 1.0, 1)
quick.add_scalar("value", 1000, 1000)
"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        cwd=ROOT,
    )
    assert said.returncode == 0
    assert "does not answer: 1 records" in said.stderr
    assert steps_in(tmp_path / "quick") == list(range(1001))
    assert steps_in(tmp_path / "forgotten") == [1]


def test_a_hung_disk_and_its_return_are_logged_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbtrainer.event_file.fault_report.SILENT_SECONDS", 0.1)
    released, entered = threading.Event(), threading.Event()
    with disk.writes(disk.hung(released, entered)), caplog.at_level(logging.WARNING):
        writer = RunWriter(str(tmp_path))
        offer(writer, range(1))
        assert entered.wait(HANG_SECONDS)
        time.sleep(0.1)
        for step in range(1, 30):
            offer(writer, range(step, step + 1))
    released.set()
    wait_until(lambda: "is written to" in caplog.text)
    writer.close()
    assert caplog.text.count("has not answered") == 1
    assert caplog.text.count("is written to") == 1
