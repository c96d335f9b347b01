"""A run has a directory of its own, and its claim says whose it is."""

import errno
import json
import multiprocessing
import subprocess
from pathlib import Path

import fsspec
import pytest

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.event_file.names import CLAIM
from tbtrainer.run.claim import (
    Claim,
    RunDirectoryUnavailable,
    claim_run_directory,
    is_place_of,
    read_claim,
    renew_claim,
)
from tests.faults.disk import may_mount, small_disk

EVENT_FILE = "events.out.tfevents.1.host.1.0"


def claimed(path: object) -> str:
    return claim_run_directory(str(path), "out")[0]


def test_a_used_directory_gives_a_numbered_sibling(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / EVENT_FILE).touch()
    assert claimed(run) == f"{run}-1"
    assert claimed(run) == f"{run}-2"


def test_a_used_remote_directory_gives_a_numbered_sibling() -> None:
    assert claimed("memory://claims/run") == "memory://claims/run"
    assert claimed("memory://claims/run") == "memory://claims/run-1"
    fsspec.filesystem("memory").rm("/claims", recursive=True)


def test_a_directory_with_other_files_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert claimed(tmp_path) == str(tmp_path)


def test_jobs_of_one_moment_get_a_directory_each(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        places = pool.map(claimed, [str(tmp_path / "run")] * 6, chunksize=1)
    assert len(set(places)) == 6


def test_a_link_to_a_directory_is_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert claimed(tmp_path / "link") == str(tmp_path / "link")
    assert claimed(tmp_path / "real") == f"{tmp_path}/real-1"


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_a_used_volume_gives_a_numbered_directory_inside(tmp_path: Path) -> None:
    with small_disk(tmp_path / "parent", "size=1m") as parent:
        volume = parent / "logs"
        volume.mkdir()
        with small_disk(volume, "size=1m"):
            (volume / EVENT_FILE).touch()
            remounted(parent, "ro")
            assert claimed(volume) == f"{volume}/logs-1"
            assert claimed(volume) == f"{volume}/logs-2"
            assert [path.name for path in volume.glob("*tfevents*")] == [EVENT_FILE]


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_a_used_directory_without_inodes_left_is_an_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "nr_inodes=3") as disk:
        (disk / "run").mkdir()
        (disk / "run" / EVENT_FILE).touch()
        with pytest.raises(RunDirectoryUnavailable, match=r"Set logging_dir to"):
            claimed(disk / "run")


def remounted(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(directory)], check=True)


def test_a_claim_is_read_back(tmp_path: Path) -> None:
    directory, claim = claim_run_directory(str(tmp_path / "run"), str(tmp_path))
    assert read_claim(directory) == claim
    assert claim.relative == "run"
    assert claim.first_training is not None


def test_a_renewed_claim_keeps_its_run_and_first_training(tmp_path: Path) -> None:
    directory, claim = claim_run_directory(str(tmp_path / "run"), str(tmp_path), trains=False)
    assert claim.first_training is None
    renew_claim(directory, claim.run_id, str(tmp_path))
    first = read_claim(directory)
    renew_claim(directory, claim.run_id, str(tmp_path))
    second = read_claim(directory)
    assert first is not None
    assert second is not None
    assert (second.run_id, second.first_training) == (claim.run_id, first.first_training)
    assert (second.last_training or 0) >= (first.last_training or 0) > 0


def test_a_claim_holds_no_path_outside_the_output_directory(tmp_path: Path) -> None:
    claim_run_directory(str(tmp_path / "run"), str(tmp_path / "output-of-someone"))
    content = (tmp_path / "run" / CLAIM).read_text()
    assert str(tmp_path) not in content


@pytest.mark.parametrize(
    ("run", "output_dir", "belongs"),
    [
        ("/a/runs/x", "/a", True),
        ("/b/runs/x", "/b", True),  # Both were moved or copied.
        ("/b/runs/y", "/b", False),
        ("/a/archive/x", "/a", True),  # The run alone was moved.
        ("/a/runs/x", "/a/runs", False),
        ("/a/runs/x", "/", False),
        ("/a/runs/x", "/b", False),
    ],
)
def test_a_claim_belongs_to_the_output_directory_it_names(
    run: str, output_dir: str, belongs: bool
) -> None:
    claim = Claim.new("/a/runs/x", "/a", trains=True)
    assert claim.belongs_to(run, output_dir) is belongs


def test_a_sibling_output_directory_has_another_run() -> None:
    claim = Claim.new("/logs/x", "/a", trains=True)
    assert claim.belongs_to("/logs/x", "/a")
    assert not claim.belongs_to("/logs/x", "/b")
    assert claim.belongs_to("/moved/logs/x", "/moved/a")


GOOD = json.loads(Claim.new("/a/runs/x", "/a", trains=True).to_bytes())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 60_000,
        b"0123456789abcdef0123456789abcdef",
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"run_id": ""},
                {"run_id": 7},
                {"run_id": "../.."},
                {"output_dir": None},
                {"relative": ["runs"]},
                {"first_training": "now"},
                {"last_training": True},
                {"last_training": 10**400},
                {"last_training": float("nan")},
            )
        ),
        json.dumps({**GOOD, "relative": "x" * 70_000}).encode(),
    ],
)
def test_what_is_no_claim_is_read_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_bytes(content)
    assert read_claim(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("directory", "is_place"),
    [
        ("/logs/run", True),
        ("/logs/run/", True),
        ("/logs/run-1", True),
        ("/logs/run/run-1", True),
        ("/logs/run-01", False),
        ("/logs/run-0", False),
        ("/logs/run-12345", False),
        ("/logs/run-1/x", False),
        ("/logs/run/other-1", False),
        ("/logs/runner", False),
        ("/logs", False),
        ("/logs/run-1\n", False),
    ],
)
def test_only_numbered_directories_are_places_of_a_run(directory: str, is_place: bool) -> None:
    assert is_place_of(directory, "/logs/run") is is_place


def test_the_error_without_a_directory_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "password=MARKER7f3a9c")
    claim_run_directory(path)
    make = LocalStorage.make

    def refused(self: LocalStorage) -> None:
        if self._directory != path:
            raise PermissionError(errno.EACCES, "no permission", self._directory)
        make(self)

    monkeypatch.setattr(LocalStorage, "make", refused)
    with pytest.raises(RunDirectoryUnavailable) as raised:
        claim_run_directory(path)
    assert "MARKER7f3a9c" not in str(raised.value)
    assert "no permission" in str(raised.value)
