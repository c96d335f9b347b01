"""The run writes lines beside the event file, and a resume takes the later ones out."""

import os
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from tbtrainer.event_file.json_lines import json_line
from tbtrainer.records import JsonLine, Scalar
from tbtrainer.run import RunSession, rewind
from tbtrainer.run.open_run import MOST_LINES_FILES
from tests.events import json_lines
from tests.rewinding import contents, crashed_at, written

NAME = "health.jsonl"


def made(directory: Path, place: str, private: bool = False) -> RunSession:
    return RunSession(place, str(directory), writes=True, private=private)


def line(step: int) -> bytes:
    return json_line({"loss": 1.0}, step, 0.5)


def steps(file: Path) -> list[int]:
    return [values["step"] for values in json_lines(file)]


def test_a_line_is_written_beside_the_event_file(tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"))
    run.write([Scalar("value", 1.0), JsonLine(NAME, {"loss": 2.0, "api_key": "MARKER7f3a9c"})], 3)
    run.close()
    (values,) = json_lines(tmp_path / "run" / NAME)
    assert values.pop("time") > 1e9
    assert values == {"step": 3, "loss": 2.0, "api_key": "<hidden>"}


@pytest.mark.parametrize("ended", ["flush", "release", "close"])
def test_lines_are_written_when_a_run_is_flushed_or_closed(ended: str, tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"))
    for step in range(3):
        run.write([JsonLine(NAME, {}), JsonLine("other.jsonl", {})], step)
        run.flush(60.0) if ended == "flush" else getattr(run, ended)()
        assert steps(tmp_path / "run" / NAME) == list(range(step + 1))
        assert steps(tmp_path / "run" / "other.jsonl") == list(range(step + 1))
    run.close()


@pytest.mark.parametrize("private", [True, False])
def test_a_private_run_has_private_lines(private: bool, tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"), private)
    run.write([Scalar("value", 1.0), JsonLine(NAME, {})], 1)
    run.close()
    modes = {path.stat().st_mode for path in (tmp_path / "run").iterdir() if path.name[0] != "."}
    assert len(modes) == 1
    assert (modes.pop() & 0o077 == 0) is private


def test_other_ranks_write_no_line(tmp_path: Path) -> None:
    run = RunSession(str(tmp_path / "run"), str(tmp_path), writes=False)
    run.write([JsonLine(NAME, {})], 1)
    run.close()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"))
    with pytest.raises(ValueError):
        run.write([JsonLine(NAME, {"huge": 10**5_000})], 1)
    run.write([JsonLine(NAME, {})], 2)
    run.close()
    assert steps(tmp_path / "run" / NAME) == [2]


def test_a_run_has_a_limited_number_of_files(tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"))
    with pytest.raises(ValueError, match="Use one file"):
        for number in range(MOST_LINES_FILES + 1):
            run.write([JsonLine(f"{number}.jsonl", {})], 1)
    run.close()
    assert len(list((tmp_path / "run").glob("*.jsonl"))) == MOST_LINES_FILES


def test_lines_of_several_threads_reach_one_file(tmp_path: Path) -> None:
    run = made(tmp_path, str(tmp_path / "run"))
    assert run.writer is not None
    threads = [
        threading.Thread(target=run.write, args=([JsonLine(NAME, {})], step)) for step in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.close()
    assert sorted(steps(tmp_path / "run" / NAME)) == list(range(20))


# ---- Resuming ----


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_a_resumed_run_keeps_the_lines_before_its_step(remote: bool, tmp_path: Path) -> None:
    place = f"memory://{uuid.uuid4().hex}/run" if remote else str(tmp_path / "run")
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    run = made(tmp_path, place)
    run.begin_training(None, "auto", None)
    for step in (2, 4, 6):
        run.write([JsonLine(NAME, {})], step)
    run.mark_checkpoint(str(checkpoint), 4)
    run.close()
    run = made(tmp_path, place)
    run.begin_training(str(checkpoint), "auto", None)
    run.write([JsonLine(NAME, {})], 5)
    run.close()
    files = fsspec.filesystem("memory" if remote else "file")
    found = {path.rsplit("/", 1)[1]: files.cat(path) for path in files.ls(place, detail=False)}
    (removed,) = (name for name in found if name.startswith(f"{NAME}.removed-after-4."))
    assert [data.split(b",")[0] for data in found[NAME].splitlines()] == [
        b'{"step": %d' % step for step in (2, 4, 5)
    ]
    assert found[removed].startswith(b'{"step": 6')
    files.rm(place, recursive=True)


def with_lines(run: Path) -> list[int]:
    written(run, [1, 9])
    kept = [5, 1, 3]  # Deferred lines may come out of order.
    lines = [line(step) for step in (9, *kept, 7)]
    (run / NAME).write_bytes(b"".join(lines))
    return kept


def test_rewinding_lines_twice_equals_rewinding_once(tmp_path: Path) -> None:
    kept = with_lines(tmp_path)
    assert rewind(str(tmp_path), 5) == 3
    once = contents(tmp_path)
    assert steps(tmp_path / NAME) == kept
    assert rewind(str(tmp_path), 5) == 0
    assert contents(tmp_path) == once


def test_a_crash_at_any_call_loses_no_line(tmp_path: Path) -> None:
    moment = 0
    crashed = True
    while crashed:
        run = tmp_path / str(moment)
        kept = with_lines(run)
        crashed = crashed_at(moment, run)
        data = b"".join(file.read_bytes() for file in run.glob("health.jsonl*"))
        assert all(line(step) in data for step in (9, *kept, 7))
        rewind(str(run), 5)
        assert steps(run / NAME) == kept
        (removed,) = run.glob("health.jsonl.removed-after-5.*")
        assert removed.read_bytes() == line(9) + line(7)
        moment += 1
    assert moment > 8


@pytest.mark.parametrize(
    "content",
    [b"\0\1\2", b'{"step": 9}\n', b'{"text": "a row", "step": 9, "time": "now"}\n', b"x" * 2**21],
    ids=["binary", "no time", "other time", "huge"],
)
def test_files_of_others_are_not_rewound(content: bytes, tmp_path: Path) -> None:
    written(tmp_path, [1, 9])
    (tmp_path / "data.jsonl").write_bytes(content)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / NAME).write_bytes(line(9))
    assert rewind(str(tmp_path), 5) == 1
    assert (tmp_path / "data.jsonl").read_bytes() == content
    assert (tmp_path / "data" / NAME).read_bytes() == line(9)


def test_a_link_to_lines_of_others_is_not_rewound(tmp_path: Path) -> None:
    written(tmp_path / "run", [1, 9])
    (tmp_path / NAME).write_bytes(line(9))
    (tmp_path / "run" / NAME).symlink_to(tmp_path / NAME)
    assert rewind(str(tmp_path / "run"), 5) == 1
    assert (tmp_path / NAME).read_bytes() == line(9)
    assert (tmp_path / "run" / NAME).is_symlink()


def test_a_rewind_keeps_the_mode_of_lines(tmp_path: Path) -> None:
    with_lines(tmp_path)
    os.chmod(tmp_path / NAME, 0o600)
    rewind(str(tmp_path), 5)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{NAME}*")}
    assert modes == {0o600}


def test_removed_lines_displace_no_removed_events(tmp_path: Path) -> None:
    for step in range(9, 5, -1):
        with_lines(tmp_path)
        shutil.copy(tmp_path / NAME, tmp_path / "other.jsonl")
        rewind(str(tmp_path), step - 1)
    assert len(list(tmp_path.glob("events.out.events.*.removed-after-*"))) >= 4
