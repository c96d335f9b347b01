"""Which files of a directory are read, and in which order."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tbtrainer.event_file.names import removed_name
from tbtrainer.reading import NotARun, find_runs, read_run
from tbtrainer.reading.run_files import event_files, folder_of
from tests.event_bytes import scalar

NAME = "events.out.tfevents.1700000001.host.1-0"
LATER = "events.out.tfevents.1700000002.host.1-0"


def names(directory: Path, with_removed: bool = False) -> list[str]:
    return [file.name for file in event_files(folder_of(directory), with_removed=with_removed)]


def test_event_files_are_ordered_by_name(tmp_path: Path) -> None:
    for name in (LATER, NAME, "notes.txt", ".tbtrainer-run", "health.jsonl"):
        (tmp_path / name).touch()
    assert names(tmp_path) == [NAME, LATER]


def test_removed_records_follow_the_file_they_were_in(tmp_path: Path) -> None:
    removed = removed_name(NAME, 5, 7)
    for name in (LATER, NAME, removed, "health.jsonl.removed-after-5.00000007"):
        (tmp_path / name).touch()
    assert names(tmp_path) == [NAME, LATER]
    assert names(tmp_path, with_removed=True) == [NAME, removed, LATER]


def test_links_are_followed_and_pipes_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(scalar("loss", 1, 2.0))
    run = tmp_path / "run"
    run.mkdir()
    (run / NAME).symlink_to(tmp_path / "elsewhere")
    os.mkfifo(run / LATER)
    assert names(run) == [NAME]
    assert [record.value for record in read_run(run).iter_records()] == [2.0]


def test_a_file_that_became_a_pipe_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(scalar("loss", 1, 2.0))
    run = read_run(tmp_path)
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    assert [file.reason for file in run.files] == ["unreadable"]
    assert list(run.iter_records()) == []
    assert "not a regular file" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).touch(mode=0)
    assert [file.reason for file in read_run(tmp_path).files] == ["unreadable"]


def test_every_directory_with_event_files_is_a_run(tmp_path: Path) -> None:
    for folder in ("a", "a/below", "b/deep/er"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / NAME).touch()
    (tmp_path / "empty").mkdir()
    expected = [str(tmp_path / folder) for folder in ("a", "a/below", "b/deep/er")]
    assert find_runs(tmp_path) == expected
    assert find_runs(tmp_path / "a") == expected[:2]


def test_a_directory_of_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).touch()
    with pytest.raises(
        NotARun, match="Below it are the runs .*one, .*two. Name one .*find_runs"
    ) as error:
        read_run(tmp_path)
    assert error.value.runs == find_runs(tmp_path)


def test_an_empty_directory_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NotARun, match="none in the directories below") as error:
        read_run(tmp_path)
    assert error.value.runs == []


def test_a_directory_that_is_missing_is_an_error(tmp_path: Path) -> None:
    for read in (read_run, find_runs):
        for path in (tmp_path / "nothing", "", (tmp_path / "nothing").as_uri()):
            name = "" if path == "" else f"{tmp_path}/nothing"
            with pytest.raises(FileNotFoundError, match=f"There is no directory '{name}'"):
                read(path)


def test_an_event_file_in_place_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    for read in (read_run, find_runs):
        with pytest.raises(NotADirectoryError, match="is a file. Name the run directory"):
            read(tmp_path / NAME)


def test_a_path_may_be_a_text_or_a_path(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(scalar("loss", 1, 2.0))
    for path in (tmp_path, str(tmp_path), f"{tmp_path}/"):
        assert len(list(read_run(path).iter_records())) == 1
    with pytest.raises(TypeError, match="os.PathLike object, not int"):
        read_run(3)  # type: ignore[arg-type]


# ---- URLs ----


@pytest.fixture
def store() -> Iterator["fsspec.AbstractFileSystem"]:
    """An object store in memory."""
    opened = fsspec.filesystem("memory")
    opened.store.clear()
    # Other tests have made directories, whose names no object can have.
    opened.pseudo_dirs[:] = [""]
    yield opened
    opened.store.clear()


def test_a_run_on_an_object_store_is_read(store: "fsspec.AbstractFileSystem") -> None:
    store.pipe_file(f"/bucket/run/{NAME}", scalar("loss", 1, 2.0) + scalar("loss", 2, 3.0)[:-1])
    store.pipe_file(f"/bucket/run/below/{NAME}", scalar("loss", 1, 4.0))
    run = read_run("memory://bucket/run")
    assert [record.value for record in run.iter_records()] == [2.0]
    assert [file.reason for file in run.files] == ["torn"]
    assert find_runs("memory://bucket") == [
        "memory://bucket/run",
        "memory://bucket/run/below",
    ]


def test_what_is_no_run_on_a_store_is_refused(store: "fsspec.AbstractFileSystem") -> None:
    for name in ("one", "two"):
        store.pipe_file(f"/bucket/runs/{name}/{NAME}", scalar("loss", 1, 2.0))
    store.makedirs("/bucket/empty")
    for read in (read_run, find_runs):
        with pytest.raises(FileNotFoundError, match="There is no directory 'memory://bucket/no'"):
            read("memory://bucket/no")
        with pytest.raises(NotADirectoryError, match="is a file. Name the run directory"):
            read(f"memory://bucket/runs/one/{NAME}")
    with pytest.raises(NotARun, match="none in the directories below"):
        read_run("memory://bucket/empty")
    with pytest.raises(NotARun, match="runs/one, memory://bucket/runs/two. .*find_runs") as error:
        read_run("memory://bucket/runs")
    assert [len(read_run(path).scalars) for path in error.value.runs] == [1, 1]


def test_an_object_without_content_is_no_run(store: "fsspec.AbstractFileSystem") -> None:
    store.pipe_file("/bucket/run", b"")
    with pytest.raises(NotARun, match="has no event files"):
        read_run("memory://bucket/run")


def test_a_path_after_file_colon_is_local(tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / NAME).write_bytes(scalar("loss", 1, 2.0))
    assert len(list(read_run(folder.as_uri()).iter_records())) == 1


def test_a_fault_of_a_store_is_an_unreadable_file(
    store: "fsspec.AbstractFileSystem", monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe_file(f"/bucket/run/{NAME}", scalar("loss", 1, 2.0))

    def refused(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the store's own error")

    run = read_run("memory://bucket/run")
    monkeypatch.setattr(type(store), "open", refused)
    assert [file.reason for file in run.files] == ["unreadable"]


def test_an_unknown_protocol_is_an_error_that_names_the_argument() -> None:
    with pytest.raises(ValueError, match="path: nonsense:// is no protocol"):
        read_run("nonsense://bucket/run")
