"""Rewinding takes out what comes after a step, and loses nothing."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.run import RunWriter, rewind
from tests.events import event_files, events, scalars


def written(directory: Path, steps: list[int], purge_step: int | None = None) -> None:
    writer = RunWriter(str(directory), purge_step)
    for step in steps:
        writer.add_scalar("value", step, step)
    writer.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def steps_in(directory: Path) -> list[int]:
    return [step for file in event_files(directory) for _, step, _ in scalars(file)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(-1, 51))
def test_rewinding_twice_equals_rewinding_once(tmp_path_factory, steps, last):
    directory = tmp_path_factory.mktemp("run")
    written(directory, steps)
    rewind(str(directory), last)
    once = contents(directory)
    rewind(str(directory), last)
    assert contents(directory) == once
    assert steps_in(directory) == [step for step in steps if step <= last]


def test_every_record_taken_out_is_kept_beside(tmp_path):
    written(tmp_path, list(range(10)))
    before = event_files(tmp_path)[0].read_bytes()
    assert rewind(str(tmp_path), 5) == 4
    (beside,) = [path for path in tmp_path.iterdir() if "removed" in path.name]
    assert "tfevents" not in beside.name
    assert event_files(tmp_path)[0].read_bytes() + beside.read_bytes() == before


def test_a_torn_end_is_cut_off_and_kept(tmp_path):
    written(tmp_path, [1, 2, 3])
    (file,) = event_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    rewind(str(tmp_path), 10)
    assert steps_in(tmp_path) == [1, 2]
    assert list(events(file))
    assert any("removed" in path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_crash_at_any_moment_loses_nothing(moment, tmp_path, monkeypatch):
    written(tmp_path, list(range(10)))
    before = event_files(tmp_path)[0].read_bytes()

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(moment, crash)
        with pytest.raises(KeyboardInterrupt):
            rewind(str(tmp_path), 5)
    assert event_files(tmp_path)[0].read_bytes() == before
    rewind(str(tmp_path), 5)
    assert steps_in(tmp_path) == list(range(6))


def test_sessions_after_the_step_leave_no_start_behind(tmp_path):
    written(tmp_path, list(range(6)))
    written(tmp_path, list(range(6, 10)), purge_step=6)
    rewind(str(tmp_path), 3)
    starts = [e.step for f in event_files(tmp_path) for e in events(f) if e.HasField("session_log")]
    assert all(step <= 3 for step in starts)
    assert steps_in(tmp_path) == [0, 1, 2, 3]


def test_the_files_keep_their_permissions(tmp_path):
    written(tmp_path, [1, 9])
    (file,) = event_files(tmp_path)
    os.chmod(file, 0o600)
    rewind(str(tmp_path), 5)
    assert file.stat().st_mode & 0o777 == 0o600
