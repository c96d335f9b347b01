"""Rewinding takes out what comes after a step, and loses no record."""

import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.run import RunWriter, claim_run_directory, rewind
from tbtrainer.run.rewind import RewindIncomplete
from tests.events import event_files, events, steps_in
from tests.faults.disk import may_mount, small_disk
from tests.rewinding import contents, crashed_at, records, written
from tests.tensorboard_server import tensorboard


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(-1, 51))
def test_rewinding_twice_equals_rewinding_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], last: int
) -> None:
    directory = tmp_path_factory.mktemp("run")
    written(directory, steps)
    rewind(str(directory), last)
    once = contents(directory)
    rewind(str(directory), last)
    assert contents(directory) == once
    assert steps_in(directory) == [step for step in steps if step <= last]


def test_every_record_taken_out_is_kept_beside(tmp_path: Path) -> None:
    written(tmp_path, list(range(10)))
    before = event_files(tmp_path)[0].read_bytes()
    assert rewind(str(tmp_path), 5) == 4
    (beside,) = [path for path in tmp_path.iterdir() if "removed" in path.name]
    assert "tfevents" not in beside.name
    assert event_files(tmp_path)[0].read_bytes() + beside.read_bytes() == before


def test_a_torn_end_is_cut_off_and_kept(tmp_path: Path) -> None:
    written(tmp_path, [1, 2, 3])
    (file,) = event_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    rewind(str(tmp_path), 10)
    assert steps_in(tmp_path) == [1, 2]
    assert list(events(file))
    assert any("removed" in path.name for path in tmp_path.iterdir())


def test_a_rewind_after_a_crash_at_any_call_loses_nothing(tmp_path: Path) -> None:
    def prepared(name: str) -> Path:
        run = tmp_path / name
        shutil.copytree(tmp_path / "original", run)
        return run

    written(tmp_path / "original", list(range(10)))
    written(tmp_path / "original", list(range(3, 12)))
    expected = prepared("uninterrupted")
    rewind(str(expected), 5)

    for moment in itertools.count():
        run = prepared(str(moment))
        if not crashed_at(moment, run):
            break
        # Whatever a loader reads now is whole, and no record is gone.
        lying_there = {record for path in run.iterdir() for record in records(path)}
        assert lying_there >= {r for p in (tmp_path / "original").iterdir() for r in records(p)}
        rewind(str(run), 5)
        assert contents(run) == contents(expected)
    assert moment >= 8


def test_sessions_after_the_step_leave_no_start_behind(tmp_path: Path) -> None:
    written(tmp_path, list(range(6)))
    written(tmp_path, list(range(6, 10)), purge_step=6)
    rewind(str(tmp_path), 3)
    starts = [e.step for f in event_files(tmp_path) for e in events(f) if e.HasField("session_log")]
    assert all(step <= 3 for step in starts)
    assert steps_in(tmp_path) == [0, 1, 2, 3]


def test_the_files_keep_their_permissions(tmp_path: Path) -> None:
    written(tmp_path, [1, 9])
    (file,) = event_files(tmp_path)
    os.chmod(file, 0o600)
    rewind(str(tmp_path), 5)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_subdirectories_of_a_run_are_rewound_and_other_runs_not(tmp_path: Path) -> None:
    claim_run_directory(str(tmp_path))
    writer = RunWriter(str(tmp_path))
    for step in range(10):
        writer.add_scalars("several", {"a": step, "b": step}, step)
    writer.add_hparams({"rate": 0.1}, {"accuracy": 0.9}, run_name="hparams")
    writer.close()
    claim_run_directory(str(tmp_path / "trial-0"))
    written(tmp_path / "trial-0", list(range(10)))
    written(tmp_path / "of-another-tool", list(range(10)))
    rewind(str(tmp_path), 5)
    assert steps_in(tmp_path / "several_a") == steps_in(tmp_path / "several_b") == list(range(6))
    assert steps_in(tmp_path / "trial-0") == list(range(10))
    assert steps_in(tmp_path / "of-another-tool") == list(range(10))
    assert event_files(tmp_path / "hparams")


def test_every_reader_shows_each_step_once_after_ten_crashes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for cycle in range(10):
        if cycle:
            rewind(str(run), 3 * cycle)
        writer = RunWriter(str(run), purge_step=3 * cycle + 1 if cycle else None)
        for step in range(3 * cycle + 1, 3 * cycle + 6):
            writer.add_scalar("value", step, step)
        writer.add_scalar(f"orphan/{cycle}", 1, 3 * cycle + 6)
        writer.close()
    expected = list(range(1, 33))
    accumulator = EventAccumulator(str(run)).Reload()
    assert [event.step for event in accumulator.Scalars("value")] == expected
    assert accumulator.Tags()["scalars"] == ["value", "orphan/9"]
    for load_fast in (True, False):
        with tensorboard(run, load_fast=load_fast) as server:
            server.wait_for("scalars", "orphan/9")
            points = server.ask("plugin/scalars/scalars", run=".", tag="value")
            assert [step for _, step, _ in points] == expected
            assert server.tags("scalars") == ["orphan/9", "value"]


# ---- No room, pipes, files of others ----


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_a_rewind_without_room_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        written(disk / "run", list(range(4000)))
        before = contents(disk / "run")
        with pytest.raises(RewindIncomplete, match="no room"):
            rewind(str(disk / "run"), 3990)
        assert contents(disk / "run") == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_interrupted_rewind_leaves_no_parts(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, list(range(10)))
    before = contents(tmp_path)

    def interrupted(*args: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises((RewindIncomplete, KeyboardInterrupt)):
            rewind(str(tmp_path), 5)
    assert contents(tmp_path) == before


def test_a_pipe_named_like_an_event_file_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, list(range(10)))
    os.mkfifo(tmp_path / "events.out.tfevents.1.pipe")
    (tmp_path / "events.out.tfevents.2.link").symlink_to(tmp_path / "events.out.tfevents.1.pipe")
    assert rewind(str(tmp_path), 5) == 4


def test_a_link_to_anothers_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    written(tmp_path / "theirs", list(range(10)))
    (file,) = event_files(tmp_path / "theirs")
    written(tmp_path / "run", list(range(10)))
    (tmp_path / "run" / file.name.replace("tfevents.", "tfevents.1")).symlink_to(file)
    (tmp_path / "run" / "below").symlink_to(tmp_path / "theirs")
    assert rewind(str(tmp_path / "run"), 5) == 4
    assert steps_in(tmp_path / "theirs") == list(range(10))


def test_an_unreadable_file_is_named_and_the_others_are_rewound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, list(range(10)))
    (tmp_path / "events.out.tfevents.1.foreign").touch()
    opened = LocalStorage.open

    def refused(storage: LocalStorage, path: str) -> Any:
        if path.endswith("foreign"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(storage, path)

    monkeypatch.setattr(LocalStorage, "open", refused)
    with pytest.raises(RewindIncomplete, match=r"tfevents\.1\.foreign: .*Permission denied"):
        rewind(str(tmp_path), 5)
    assert steps_in(tmp_path) == list(range(6))


# ---- What was taken out earlier ----


def test_of_earlier_rewinds_the_last_few_files_are_kept(tmp_path: Path) -> None:
    for crash in range(20):
        written(tmp_path, [1, 2, 100 + crash])
        rewind(str(tmp_path), 2)
    assert len([path for path in tmp_path.iterdir() if "removed-after" in path.name]) <= 5
    assert steps_in(tmp_path) == [1, 2] * 20


def test_one_rewind_keeps_all_that_it_takes_out(tmp_path: Path) -> None:
    for session in range(8):
        written(tmp_path, [1, 100 + session])
    everything = {r for path in tmp_path.iterdir() for r in records(path)}
    rewind(str(tmp_path), 2)
    assert {r for path in tmp_path.iterdir() for r in records(path)} == everything


def test_a_file_of_the_user_that_looks_unfinished_stays(tmp_path: Path) -> None:
    written(tmp_path, [1, 2])
    (tmp_path / "notes.being-written").write_text("kept")
    (tmp_path / f".{'0' * 32}.being-written").write_text("of a rewind that was killed")
    rewind(str(tmp_path), 1)
    assert (tmp_path / "notes.being-written").read_text() == "kept"
    assert not (tmp_path / f".{'0' * 32}.being-written").exists()


def test_the_error_of_a_rewind_has_no_secret(tmp_path: Path, monkeypatch: Any) -> None:
    written(tmp_path, [1, 2])
    (file,) = event_files(tmp_path)
    file.rename(tmp_path / "events.out.tfevents.1.password=MARKER7f3a9c\nforged line")

    def refused(self: LocalStorage, path: str) -> None:
        raise PermissionError(errno.EACCES, "no permission", str(tmp_path / path))

    monkeypatch.setattr(LocalStorage, "open", refused)
    with pytest.raises(RewindIncomplete) as raised:
        rewind(str(tmp_path), 1)
    assert "MARKER7f3a9c" not in str(raised.value)
    assert "\n" not in str(raised.value)
