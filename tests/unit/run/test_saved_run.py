"""The marker of a checkpoint holds its run, and whatever else is in it is refused."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.run.saved_run import RUN_FILE, BrokenMarker, SavedRun

RUN_ID = "0123456789abcdef" * 2


def marked(root: Path) -> Path:
    checkpoint = root / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    SavedRun.of(str(root / "runs" / "a"), RUN_ID, str(checkpoint), 7, {"args": "12"}).write(
        str(checkpoint)
    )
    return checkpoint


def test_run_and_step_are_read_back(tmp_path: Path) -> None:
    checkpoint = marked(tmp_path)
    assert SavedRun.read(str(checkpoint)) == SavedRun(
        run_directory=str(tmp_path / "runs" / "a"),
        relative_directory=os.path.join("..", "runs", "a"),
        run_id=RUN_ID,
        step=7,
        cards={"args": "12"},
    )
    assert [path.name for path in checkpoint.iterdir()] == [RUN_FILE]


def test_a_checkpoint_of_the_stock_trainer_has_no_run(tmp_path: Path) -> None:
    assert SavedRun.read(str(tmp_path)) is None


def test_a_marker_needs_no_run_directory(tmp_path: Path) -> None:
    assert not (tmp_path / "runs").exists()
    marked(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_credentials_of_a_url_are_in_no_checkpoint(tmp_path: Path) -> None:
    url = "s3://name:hidden-word@host/run-1"
    SavedRun.of(url, RUN_ID, str(tmp_path), 7, {}).write(str(tmp_path))
    assert "hidden-word" not in (tmp_path / RUN_FILE).read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"run_directory": None},
        {"run_directory": ""},
        {"run_directory": "/a\0b"},
        {"run_directory": "/a\ud800b"},
        {"relative_directory": "../\ud800"},
        {"run_directory": "/" + "x" * 5_000},
        {"relative_directory": ["..", "runs"]},
        {"run_id": None},
        {"run_id": 0},
        {"run_id": "../../.."},
        {"run_id": RUN_ID + "\n"},
        {"step": 2**70},
        {"step": 2**63 - 1},
        {"step": -1},
        {"step": True},
        {"step": 7.0},
        {"step": "7"},
        {"step": None},
        {"step": 6},
        {"cards": ["args"]},
        {"cards": {"args": 12}},
        {"cards": {str(number): "" for number in range(1_000)}},
    ],
    ids=str,
)
def test_a_marker_with_a_wrong_field_is_broken(change: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = marked(tmp_path)
    values = json.loads((checkpoint / RUN_FILE).read_text())
    (checkpoint / RUN_FILE).write_text(json.dumps({**values, **change}))
    with pytest.raises(BrokenMarker):
        SavedRun.read(str(checkpoint))


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b"\xff\0", b"[" * 60_000, b'"' + b"x" * 99_999 + b'"']
)
def test_a_marker_that_is_no_marker_is_broken(content: bytes, tmp_path: Path) -> None:
    checkpoint = marked(tmp_path)
    (checkpoint / RUN_FILE).write_bytes(content)
    with pytest.raises(BrokenMarker):
        SavedRun.read(str(checkpoint))


def test_a_pipe_in_the_place_of_a_marker_is_broken(tmp_path: Path) -> None:
    checkpoint = marked(tmp_path)
    (checkpoint / RUN_FILE).unlink()
    os.mkfifo(checkpoint / RUN_FILE)
    with pytest.raises(BrokenMarker, match="not a regular file"):
        SavedRun.read(str(checkpoint))


def test_a_marker_without_room_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = marked(tmp_path)
    before = (checkpoint / RUN_FILE).read_bytes()

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        SavedRun.of("/run", RUN_ID, str(checkpoint), 7, {}).write(str(checkpoint))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == {RUN_FILE: before}


@pytest.mark.parametrize("in_the_way", ["link", "pipe"])
def test_a_marker_is_never_written_through_what_is_there(in_the_way: str, tmp_path: Path) -> None:
    """A downloaded checkpoint may hold a link or a pipe under the name of the unfinished file."""
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    (tmp_path / "of-others").write_text("kept")
    if in_the_way == "link":
        (checkpoint / f"{RUN_FILE}.part").symlink_to(tmp_path / "of-others")
    else:
        os.mkfifo(checkpoint / f"{RUN_FILE}.part")
    written = threading.Thread(target=marked_in, args=(checkpoint,), daemon=True)
    written.start()
    written.join(5)
    assert not written.is_alive()
    assert (tmp_path / "of-others").read_text() == "kept"
    assert SavedRun.read(str(checkpoint)) is not None
    assert [path.name for path in checkpoint.iterdir()] == [RUN_FILE]


def marked_in(checkpoint: Path) -> None:
    SavedRun.of("/runs/a", RUN_ID, str(checkpoint), 7, {}).write(str(checkpoint))
