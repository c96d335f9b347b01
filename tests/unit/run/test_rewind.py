"""Rewinding takes out what comes after a step, and loses nothing."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbtrainer.event_file.records import whole_records
from tbtrainer.run import RunWriter, claim_run_directory, rewind
from tests.events import event_files, events, scalars
from tests.tensorboard_server import tensorboard


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


class Crash(BaseException):
    pass


def test_a_crash_at_any_moment_loses_nothing_and_the_next_rewind_ends_as_the_first(tmp_path):
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


def records(path: Path) -> list[bytes]:
    with open(path, "rb") as file:
        return list(whole_records(file))


def crashed_at(moment: int, run: Path) -> bool:
    """Rewinds, and ends at the call of this number that changes the disk."""
    calls = itertools.count()
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "open", "chmod")}

    def watched(original):
        def call(*args, **kwargs):
            if next(calls) == moment:
                raise Crash
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name, original in originals.items():
            patched.setattr(os, name, watched(original))
        try:
            rewind(str(run), 5)
        except Crash:
            return True
    return False


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
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_what_a_run_wrote_in_directories_below_is_rewound_and_other_runs_there_are_not(tmp_path):
    claim_run_directory(str(tmp_path))
    writer = RunWriter(str(tmp_path))
    for step in range(10):
        writer.add_scalars("several", {"a": step, "b": step}, step)
    writer.add_hparams({"rate": 0.1}, {"accuracy": 0.9}, run_name="hparams")
    writer.close()
    written(Path(claim_run_directory(str(tmp_path / "trial-0"))), list(range(10)))
    written(tmp_path / "of-another-tool", list(range(10)))
    rewind(str(tmp_path), 5)
    assert steps_in(tmp_path / "several_a") == steps_in(tmp_path / "several_b") == list(range(6))
    assert steps_in(tmp_path / "trial-0") == list(range(10))
    assert steps_in(tmp_path / "of-another-tool") == list(range(10))
    assert event_files(tmp_path / "hparams")


def test_every_reader_shows_each_step_once_after_ten_crashes(tmp_path):
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
