"""A file of JSON lines keeps what it has, and leaves files of other programs as they are."""

import errno
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tbtrainer.event_file import json_lines_file
from tbtrainer.event_file.json_lines import MOST_BYTES, json_line
from tbtrainer.event_file.json_lines_file import JsonLinesFile
from tbtrainer.event_file.local_storage import LocalStorage
from tests.events import json_lines

NAME = "health.jsonl"


def made(directory: Path, mode: int = 0o666) -> JsonLinesFile:
    return JsonLinesFile(str(directory), NAME, mode, sync=False)


def line(step: int) -> bytes:
    return json_line({"loss": 1.0}, step, 0.5)


def steps(file: Path) -> list[int]:
    return [values["step"] for values in json_lines(file)]


def test_lines_are_added_in_order(tmp_path: Path) -> None:
    file = made(tmp_path / "run")
    for step in range(3):
        assert file.append([line(2 * step), line(2 * step + 1)]).records == 2
    assert file.path == str(tmp_path / "run" / NAME)
    assert steps(tmp_path / "run" / NAME) == list(range(6))


def test_lines_of_an_earlier_session_are_kept(tmp_path: Path) -> None:
    made(tmp_path).append([line(1)])
    made(tmp_path).append([line(2)])
    assert steps(tmp_path / NAME) == [1, 2]


def test_a_broken_last_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(line(1) + line(2)[:20])
    made(tmp_path).append([line(3)])
    assert steps(tmp_path / NAME) == [1, 3]


def test_an_existing_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    original = LocalStorage.read

    def counted(storage: LocalStorage, path: str, most_bytes: int) -> bytes:
        reads.append(path)
        return original(storage, path, most_bytes)

    monkeypatch.setattr(LocalStorage, "read", counted)
    file = made(tmp_path)
    for step in range(3):
        file.append([line(step)])
    assert reads == [NAME]


def huge(file: Path) -> None:
    file.write_bytes(line(1) * (MOST_BYTES // len(line(1)) + 1))


FOREIGN: dict[str, Callable[[Path], object]] = {
    "link": lambda file: file.symlink_to(file.parent.parent / "of-others"),
    "broken link": lambda file: file.symlink_to(file.parent.parent / "missing"),
    "pipe": os.mkfifo,
    "directory": lambda file: file.mkdir(),
    "huge": huge,
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "other lines": lambda file: file.write_text('{"text": "a row of a data set"}\n'),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_others_have_put_there_stays_as_it_is(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "of-others").write_bytes(line(7))
    run = tmp_path / "run"
    run.mkdir()
    FOREIGN[kind](run / NAME)
    before = os.lstat(run / NAME)
    with caplog.at_level(logging.WARNING):
        for step in range(2):
            assert made(run).append([line(step)]).fault is None
    after = os.lstat(run / NAME)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert steps(run / "health-1.jsonl") == [0, 1]
    assert (tmp_path / "of-others").read_bytes() == line(7)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "of-others"}
    assert caplog.messages[0].startswith(NAME)


def test_ten_files_of_others_are_a_fault(tmp_path: Path) -> None:
    for name in (NAME, *(f"health-{number}.jsonl" for number in range(1, 10))):
        (tmp_path / name).write_text("text")
    appended = made(tmp_path).append([line(1)])
    assert appended.records == 0
    assert "not of this run" in str(appended.fault)


def test_a_read_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_bytes(line(1))
    file = made(tmp_path)

    def broken(*args: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "read", broken)
        assert file.append([line(2)]).records == 0
    file.append([line(2)])
    assert steps(tmp_path / NAME) == [1, 2]


def test_a_write_that_fails_leaves_the_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(tmp_path)
    file.append([line(1)])

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert file.append([line(2)]).records == 0
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert steps(tmp_path / NAME) == [1]


def test_a_full_file_leaves_lines_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines_file, "MOST_BYTES", 3 * len(line(1)))
    file = made(tmp_path)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            assert file.append([line(step)]).records == 1
    assert steps(tmp_path / NAME) == [1, 2, 3]
    assert caplog.text.count("are left out") == 1


@pytest.mark.parametrize("mode, expected", [(0o600, 0o600), (0o666, 0o640)])
def test_the_mode_is_that_of_event_files(mode: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        file = made(tmp_path, mode)
        for step in range(2):
            file.append([line(step)])
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("sync", [True, False])
def test_only_with_sync_the_disk_is_waited_for(
    sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    JsonLinesFile(str(tmp_path), NAME, 0o666, sync).append([line(1)])
    assert bool(synced) is sync


def test_an_object_keeps_its_lines() -> None:
    directory = f"memory://{uuid.uuid4().hex}/run"
    for step in range(3):
        appended = JsonLinesFile(directory, NAME, 0o666, False).append([line(step)])
        assert appended.fault is None
    assert fsspec.filesystem("memory").cat(f"{directory}/{NAME}") == line(0) + line(1) + line(2)
    fsspec.filesystem("memory").rm(directory, recursive=True)
