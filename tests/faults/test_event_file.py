"""Whatever the disk does, no call fails or waits, and all records are readable afterwards."""

import errno
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.event_file import waiting
from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.isolation import Isolation
from tbtrainer.run import RunWriter, SilentWriter
from tests.events import event_files, histograms, scalars, steps_in
from tests.faults import disk
from tests.faults.disk import wait_until
from tests.offering import offer


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_records_of_a_fault_are_written_when_it_is_over(
    code: int, torn: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(50))
    with caplog.at_level(logging.WARNING), disk.writes(disk.failing(code, torn)):
        offer(writer, range(50, 100))
        wait_until(lambda: "cannot be written" in caplog.text)
        # During a fault no call waits, whatever its limit is.
        offer(writer, range(100, 150))
        assert not writer._events.flush(seconds=3600)
        assert writer.counters == Counters(written=50, pending=100, dropped=0)
    wait_until(lambda: writer.counters == Counters(written=150, pending=0, dropped=0))
    writer.close()
    assert steps_in(tmp_path) == list(range(150))
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("is written to") == 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_opened_is_opened_later(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(str(tmp_path))
    with monkeypatch.context() as patched:

        def refuse(*args: object, **kwargs: object) -> int:
            raise OSError(code, os.strerror(code))

        patched.setattr("tbtrainer.event_file.local_file.os.open", refuse)
        offer(writer, range(20))
        time.sleep(0.1)
        assert writer.counters.pending == 20
    wait_until(lambda: writer.counters.written == 20)
    writer.close()
    assert steps_in(tmp_path) == list(range(20))


def test_short_writes_make_whole_records(tmp_path: Path) -> None:
    with disk.writes(disk.short):
        writer = RunWriter(str(tmp_path))
        offer(writer, range(30))
        writer.close()
    assert steps_in(tmp_path) == list(range(30))


@pytest.mark.parametrize("whole", [False, True], ids=["file", "directory"])
def test_a_deleted_run_is_begun_again(whole: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    writer = RunWriter(str(run))
    offer(writer, range(10))
    wait_until(lambda: writer.counters.pending == 0)
    shutil.rmtree(run) if whole else event_files(run)[0].unlink()
    offer(writer, range(10, 20))
    writer.close()
    assert steps_in(run) == list(range(10, 20))


def test_a_full_queue_drops_histograms_before_scalars_and_counts_them(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path), queue_bytes=50_000)
    with disk.writes(disk.failing(errno.ENOSPC)):
        for step in range(100):
            writer.add_scalar("value", step, step)
            writer.add_histogram_raw("weights", 0, 1, 8, 4, 3, list(range(40)), [1.0] * 40, step)
        dropped = writer.counters.dropped
        assert 0 < dropped < 100
    wait_until(lambda: writer.counters.pending == 0)
    writer.close()
    (file,) = event_files(tmp_path)
    assert len(scalars(file)) == 100
    assert len(histograms(file)) == 100 - dropped


def test_what_the_directory_never_took_is_in_a_named_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "gone" / "run"
    (tmp_path / "fallback").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "fallback"))
    writer = RunWriter(str(run))
    (tmp_path / "gone").write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        offer(writer, range(30))
        writer.close()
    assert steps_in(tmp_path / "fallback") == list(range(30))
    assert str(event_files(tmp_path / "fallback")[0]) in caplog.text


def test_a_session_is_read_last_after_the_clock_went_back(tmp_path: Path) -> None:
    tomorrow = int(time.time()) + 86_400
    (tmp_path / f"events.out.tfevents.{tomorrow}.host.1.0").write_bytes(b"")
    writer = RunWriter(str(tmp_path))
    offer(writer, range(3))
    writer.close()
    assert event_files(tmp_path)[-1].name.split(".")[3] == str(tomorrow + 1)


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path / "run"))
    writer.flush()
    writer.close()
    assert not (tmp_path / "run").exists()


def test_a_closed_writer_continues_in_the_same_event_file(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(3))
    writer.close()
    offer(writer, range(3, 6))
    writer.close()
    (file,) = event_files(tmp_path)
    assert [step for _, step, _ in scalars(file)] == list(range(6))


def test_a_writer_starts_a_new_file_after_another_runs(tmp_path: Path) -> None:
    first, second = RunWriter(str(tmp_path)), RunWriter(str(tmp_path))
    for writer, steps in ((first, range(3)), (second, range(3, 6)), (first, range(6, 9))):
        offer(writer, steps)
        writer.close()
    assert steps_in(tmp_path) == list(range(9))


def test_a_file_cut_short_is_left_for_a_new_one(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    wait_until(lambda: writer.counters.pending == 0)
    os.truncate(event_files(tmp_path)[0], 0)
    offer(writer, range(5, 10))
    writer.close()
    assert steps_in(tmp_path) == list(range(5, 10))


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "for ever"])
def test_a_torn_end_that_cannot_be_cut_off_hides_nothing(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    wait_until(lambda: writer.counters.pending == 0)
    refusals = iter(range(times))
    truncate = os.ftruncate

    def refuse(descriptor: int, length: int) -> None:
        if next(refusals, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        truncate(descriptor, length)

    monkeypatch.setattr(os, "ftruncate", refuse)
    with disk.writes(disk.failing_once(errno.EIO)):
        offer(writer, range(5, 10))
        wait_until(lambda: writer.counters.written == 10)
    offer(writer, range(10, 15))
    writer.close()
    assert steps_in(tmp_path) == list(range(15))


def test_whole_records_before_a_tear_are_kept(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    wait_until(lambda: writer.counters.pending == 0)
    (file,) = event_files(tmp_path)
    with disk.writes(disk.full(after_bytes=500)):
        for step in range(5, 50):
            writer.add_scalar("value", step, step)
        writer.flush()
        wait_until(lambda: writer._events._delivery.fault is not None)
        kept = steps_in(tmp_path)
        assert writer.counters.written == len(kept) > 10
    writer.close()
    assert steps_in(tmp_path) == list(range(50))
    assert event_files(tmp_path) == [file]


def test_no_error_of_any_kind_ends_the_thread(tmp_path: Path) -> None:
    def broken(descriptor: int, data: bytes) -> int:
        raise ValueError("no error that a disk has")

    writer = RunWriter(str(tmp_path))
    with disk.writes(broken):
        offer(writer, range(5))
        wait_until(lambda: writer._events._delivery.fault is not None)
    wait_until(lambda: writer.counters.written == 5)
    writer.close()
    assert steps_in(tmp_path) == list(range(5))


def test_charts_of_several_scalars_and_hyper_parameters_are_guarded_too(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    with disk.writes(disk.failing(errno.ENOSPC)):
        writer.add_scalars("several", {"a": 1.0, "b": 2.0}, 1)
        time.sleep(0.1)
        assert writer.counters == Counters(written=0, pending=2, dropped=0)
    writer.add_hparams({"rate": 0.1}, {"accuracy": 0.9}, run_name="trial")
    writer.close()
    assert {file.parent.name for file in event_files(tmp_path)} == {
        "several_a",
        "several_b",
        "trial",
    }
    assert not [t for t in threading.enumerate() if t.name != "MainThread" and "hread-" in t.name]


def test_no_thread_and_no_descriptor_stays_after_a_close(tmp_path: Path) -> None:
    def open_files() -> set[str]:
        held = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return {os.readlink(path) for path in held if os.path.exists(path)}

    before = set(threading.enumerate())
    writer = RunWriter(str(tmp_path))
    offer(writer, range(5))
    assert any(str(tmp_path) in name for name in open_files())
    writer.close()
    assert not any(str(tmp_path) in name for name in open_files())
    assert set(threading.enumerate()) == before


def test_an_event_file_can_be_kept_from_other_users(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path), file_mode=0o600)
    offer(writer, range(3))
    writer.close()
    assert event_files(tmp_path)[0].stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("sync", "expected"), [(False, []), (True, ["checkpoint", "end"])])
def test_checkpoints_and_the_end_call_fsync_if_wanted(
    sync: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.append(moment))
    writer = RunWriter(str(tmp_path), sync=sync)
    moment = "logging"
    offer(writer, range(3))
    moment = "checkpoint"
    writer.flush(waiting.CHECKPOINT_SECONDS)
    moment = "end"
    writer.close()
    assert forced == expected


def test_each_value_that_cannot_be_shown_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(str(tmp_path), isolation=Isolation("warn"))
    for step in range(3):
        writer.add_scalar("object", object(), step)
        writer.add_scalar("surrogate \ud800", 1.0, step)
        writer.add_histogram("empty", [], step)
        writer.add_text("number", 7, step)
        writer.add_scalars("charts", {"a": "text"}, step)
        writer.add_hparams({"rate": object()}, {"loss": 1.0}, run_name="trial")
        writer.add_scalar("huge", 10**400, step)
        writer.add_scalar("value", step, step)
    writer.close()
    (file,) = event_files(tmp_path)
    assert [step for tag, step, _ in scalars(file) if tag == "value"] == [0, 1, 2]
    assert len(caplog.records) == 7
    assert all(f"{__file__}:" in record.getMessage() for record in caplog.records)


def test_what_cannot_be_shown_is_raised_when_asked_for(tmp_path: Path) -> None:
    with (
        RunWriter(str(tmp_path), isolation=Isolation("raise")) as writer,
        pytest.raises(NotImplementedError),
    ):
        writer.add_scalar("object", object(), 1)


def test_the_silent_writer_has_every_method_of_the_real_one() -> None:
    silent = SilentWriter()
    for name in dir(SummaryWriter):
        if not name.startswith("_") and callable(getattr(SummaryWriter, name)):
            assert getattr(silent, name)("tag", 1, step=2) is None
    with silent as same:
        assert same is silent
