"""What is logged about faults: each cause once, a flapping disk seldom, and nothing untrue."""

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.run import RunWriter
from tests.events import event_files, scalars
from tests.faults import disk
from tests.limits import HANG_SECONDS
from tests.offering import offer, written


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def replaced(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.touch()


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "file deleted": (lambda file: file.unlink(), "was deleted"),
    "directory deleted": (lambda file: shutil.rmtree(file.parent), "was deleted"),
    "file replaced": (replaced, "was replaced by another file"),
    "file cut": (lambda file: file.write_bytes(b""), "was cut short"),
}


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_lost_event_file_is_logged_once(
    name: str, closed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lose, words = LOSSES[name]
    writer = written(tmp_path / "run", range(5))
    for part in range(2):
        if closed:
            writer.close()
        lose(event_files(tmp_path / "run")[-1])
        offer(writer, range(5 + part, 6 + part))
        disk.wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    assert len(caplog.records) == 1
    assert words in caplog.text


def test_a_flapping_disk_is_logged_a_few_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = written(tmp_path, range(1))
    delivery = writer._events._delivery
    for step in range(1, 51):
        with disk.writes(disk.failing(errno.EIO)):
            offer(writer, range(step, step + 1))
            disk.wait_until(lambda: delivery.fault is not None)
        disk.wait_until(lambda: writer.counters.pending == 0)
    assert len(caplog.records) == 2
    writer.close()
    assert len(caplog.records) == 3
    assert "failed 49 more times" in caplog.text


def test_a_fault_is_logged_when_the_last_warning_is_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = written(tmp_path, range(1))
    delivery = writer._events._delivery
    for step in range(1, 4):
        if step == 3:
            monkeypatch.setattr("tbtrainer.event_file.fault_report.WARNING_SECONDS", 0.0)
        with disk.writes(disk.failing(errno.EIO)):
            offer(writer, range(step, step + 1))
            disk.wait_until(lambda: delivery.fault is not None)
        disk.wait_until(lambda: writer.counters.pending == 0)
    assert [r.getMessage().count("cannot be written") for r in caplog.records] == [1, 0, 1, 0]
    assert "This happened 1 more times since the last warning" in caplog.text
    writer.close()
    assert len(caplog.records) == 4


def test_dropped_records_are_logged_and_summed_up_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    writer = RunWriter(str(tmp_path), queue_bytes=10_000)
    with disk.writes(disk.hung(released)):
        for step in range(200):
            writer.add_scalar("value", step, step)
        dropped = writer.counters.dropped
        assert dropped > 100
        assert [r.getMessage().split(" ", 1)[0] for r in caplog.records] == ["1"]
        released.set()
        disk.wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    assert len(caplog.records) == 2
    assert f"{dropped} records of the run" in caplog.text


def test_a_healthy_disk_receives_records_larger_than_the_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(str(tmp_path), queue_bytes=100_000)
    for step in range(20):
        writer.add_scalar("value", step, step)
        writer.add_text("large", "x" * 200_000, step)
    writer.close()
    assert writer.counters == Counters(written=40, pending=0, dropped=0)
    assert not caplog.records


def test_a_fault_drops_a_record_larger_than_the_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(str(tmp_path), queue_bytes=100_000)
    with disk.writes(disk.failing(errno.EIO)):
        offer(writer, range(1))
        disk.wait_until(lambda: writer._events._delivery.fault is not None)
        writer.add_text("large", "x" * 200_000, 1)
    disk.wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    assert writer.counters == Counters(written=1, pending=0, dropped=1)
    assert caplog.text.count("1 records of the run") == 1


def test_threads_that_keep_adding_delay_no_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the close waited for what is added meanwhile, the test would last an hour.
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 3600.0)
    writer = RunWriter(str(tmp_path))
    ends, added = threading.Event(), []

    def add() -> None:
        while not ends.is_set():
            writer.add_scalar("value", len(added), len(added))
            added.append(None)

    thread = threading.Thread(target=add)
    thread.start()
    disk.wait_until(lambda: len(added) > 100)
    before = len(added)
    writer.close()
    assert writer.counters.written >= before
    ends.set()
    thread.join()
    writer.close()
    assert not caplog.records
    steps = [step for file in event_files(tmp_path) for _, step, _ in scalars(file)]
    assert steps == list(range(len(added)))


def test_a_slow_disk_is_not_called_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbtrainer.event_file.delivery.CLOSE_SECONDS", 0.0)
    writer = RunWriter(str(tmp_path))
    entered, released = threading.Event(), threading.Event()
    with disk.writes(disk.hung(released, entered)):
        writer.add_scalar("value", 1, 1)
        assert entered.wait(HANG_SECONDS)
        monkeypatch.setattr(writer._events._delivery._waiting, "_hung_after_seconds", 3600.0)
        writer.close()
        released.set()
    assert "does not answer" not in caplog.text
    assert "is too slow: 1 records" in caplog.text
    disk.wait_until(lambda: writer.counters.pending == 0)
