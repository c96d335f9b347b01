"""Whatever the disk does, no call fails or waits, and what was offered is readable afterwards."""

import errno
import logging
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.run import RunWriter, SilentWriter
from tbtrainer.run.event_file import Counters, EventFileWriter
from tests.events import event_files, histograms, scalars
from tests.faults import disk

HEALED_SECONDS = 20


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HEALED_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def offer(writer: RunWriter, steps: range) -> None:
    for step in steps:
        writer.add_scalar("value", step, step)
    writer.flush()


def steps_in(directory: Path) -> list[int]:
    return [step for file in event_files(directory) for _, step, _ in scalars(file)]


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_what_could_not_be_written_is_written_when_the_fault_is_over(code, torn, tmp_path, caplog):
    writer = RunWriter(str(tmp_path))
    offer(writer, range(50))
    with caplog.at_level(logging.WARNING), disk.writes(disk.failing(code, torn)):
        offer(writer, range(50, 100))
        wait_until(lambda: "cannot be written" in caplog.text)
        began = time.perf_counter()
        offer(writer, range(100, 150))
        assert time.perf_counter() - began < 0.5
        assert writer.counters == Counters(written=50, pending=100, dropped=0)
    wait_until(lambda: writer.counters == Counters(written=150, pending=0, dropped=0))
    writer.close()
    assert steps_in(tmp_path) == list(range(150))
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("can be written to") - caplog.text.count("when it can be") == 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_opened_is_opened_later(code, tmp_path, monkeypatch):
    writer = RunWriter(str(tmp_path))
    with monkeypatch.context() as patched:

        def refuse(*args: object, **kwargs: object) -> int:
            raise OSError(code, os.strerror(code))

        patched.setattr("tbtrainer.run.event_file.os.open", refuse)
        offer(writer, range(20))
        time.sleep(0.1)
        assert writer.counters.pending == 20
    wait_until(lambda: writer.counters.written == 20)
    writer.close()
    assert steps_in(tmp_path) == list(range(20))


def test_a_full_disk_loses_nothing(tmp_path):
    if not disk.may_mount():
        pytest.fail("mounting a small file system needs root, as in CI")
    with disk.small_disk(tmp_path / "disk", kilobytes=64) as full:
        writer = RunWriter(str(full / "run"))
        offer(writer, range(40))
        (full / "ballast").write_bytes(bytes(48 * 1024))
        offer(writer, range(40, 1500))
        time.sleep(0.2)
        assert writer.counters.pending > 0
        for file in event_files(full):
            assert scalars(file)
        (full / "ballast").unlink()
        # 1,500 scalars take 64 kB and do not fit; what does is readable, the rest goes elsewhere.
        writer.close()
        saved = steps_in(full) + steps_in(Path(writer._events._fallback) / "run")
        assert writer.counters.dropped == 0
        assert set(range(1500)) <= set(saved)
        shutil.rmtree(Path(writer._events._fallback) / "run", ignore_errors=True)


def test_short_writes_make_whole_records(tmp_path):
    with disk.writes(disk.short):
        writer = RunWriter(str(tmp_path))
        offer(writer, range(30))
        writer.close()
    assert steps_in(tmp_path) == list(range(30))


@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_a_deleted_run_is_begun_again(whole, tmp_path):
    run = tmp_path / "run"
    writer = RunWriter(str(run))
    offer(writer, range(10))
    wait_until(lambda: writer.counters.pending == 0)
    shutil.rmtree(run) if whole else event_files(run)[0].unlink()
    offer(writer, range(10, 20))
    writer.close()
    assert steps_in(run) == list(range(10, 20))


def test_a_slow_disk_costs_a_log_call_less_than_a_millisecond(tmp_path):
    with disk.writes(disk.slow):
        writer = RunWriter(str(tmp_path))
        costs = []
        for step in range(40):
            began = time.perf_counter()
            writer.add_scalar("value", step, step)
            writer.flush()
            costs.append(time.perf_counter() - began)
            time.sleep(0.01)
        assert sorted(costs)[len(costs) // 2] < 0.001
        writer.close()
    assert steps_in(tmp_path) == list(range(40))


def test_a_hung_disk_costs_a_run_less_than_two_seconds(tmp_path, caplog):
    released = threading.Event()
    with disk.writes(disk.hung(released)), caplog.at_level(logging.WARNING):
        writer = RunWriter(str(tmp_path))
        began = time.perf_counter()
        for step in range(100):
            offer(writer, range(step, step + 1))
        writer.close()
        cost = time.perf_counter() - began
        released.set()
    assert cost < 2.5
    assert "does not answer" in caplog.text


def test_a_full_queue_drops_histograms_before_scalars_and_counts_them(tmp_path):
    writer = RunWriter(str(tmp_path), queue_bytes=20_000)
    with disk.writes(disk.failing(errno.ENOSPC)):
        for step in range(100):
            writer.add_scalar("value", step, step)
            writer.add_histogram_raw("weights", 0, 1, 8, 4, 3, list(range(40)), [1.0] * 40, step)
        assert writer.counters.dropped > 0
        offered, dropped = 200, writer.counters.dropped
    wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    (file,) = event_files(tmp_path)
    assert len(scalars(file)) == 100
    assert len(scalars(file)) + len(histograms(file)) == offered - dropped


def test_what_the_directory_never_took_is_in_a_named_file(tmp_path, monkeypatch, caplog):
    run = tmp_path / "gone" / "run"
    writer = RunWriter(str(run))
    writer._events._fallback = str(tmp_path / "fallback")
    (tmp_path / "gone").write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        offer(writer, range(30))
        writer.close()
    assert steps_in(tmp_path / "fallback") == list(range(30))
    assert str(event_files(tmp_path / "fallback")[0]) in caplog.text


def test_a_forked_child_is_silent(tmp_path):
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    child = os.fork()
    if child == 0:
        writer.add_scalar("value", 99, 99)
        writer.flush()
        writer.close()
        os._exit(0)
    os.waitpid(child, 0)
    offer(writer, range(5, 10))
    writer.close()
    assert steps_in(tmp_path) == list(range(10))


def test_a_pickled_copy_has_no_file_and_begins_its_own(tmp_path):
    events = EventFileWriter(str(tmp_path))
    copy = pickle.loads(pickle.dumps(events))
    assert copy.get_logdir() == str(tmp_path)
    assert copy.counters == Counters(0, 0, 0)


def test_a_session_after_a_clock_that_went_back_is_read_last(tmp_path):
    tomorrow = int(time.time()) + 86_400
    (tmp_path / f"events.out.tfevents.{tomorrow}.host.1.0").write_bytes(b"")
    writer = RunWriter(str(tmp_path))
    offer(writer, range(3))
    writer.close()
    assert event_files(tmp_path)[-1].name.split(".")[3] == str(tomorrow + 1)


def test_nothing_is_made_before_the_first_record(tmp_path):
    writer = RunWriter(str(tmp_path / "run"))
    writer.flush()
    writer.close()
    assert not (tmp_path / "run").exists()


def test_one_event_file_holds_what_comes_before_and_after_a_close(tmp_path):
    writer = RunWriter(str(tmp_path))
    offer(writer, range(3))
    writer.close()
    offer(writer, range(3, 6))
    writer.close()
    (file,) = event_files(tmp_path)
    assert [step for _, step, _ in scalars(file)] == list(range(6))


def test_the_silent_writer_has_every_method_of_the_real_one():
    silent = SilentWriter()
    for name in dir(SummaryWriter):
        if not name.startswith("_") and callable(getattr(SummaryWriter, name)):
            assert getattr(silent, name)("tag", 1, step=2) is None
    with silent as same:
        assert same is silent
