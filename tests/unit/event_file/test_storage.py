"""Local directories and object stores behave alike, and no link leads out of a directory."""

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.event_file.remote_storage import RemoteStorage
from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.storage_protocol import Storage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield storage_of(str(tmp_path / "run"))
        return
    root = f"/{uuid.uuid4().hex}"
    yield storage_of(f"memory://{root}/run")
    fsspec.filesystem("memory").rm(root, recursive=True)


def test_a_url_is_remote_and_a_path_is_local(tmp_path: Path) -> None:
    assert isinstance(storage_of("memory://run"), RemoteStorage)
    assert isinstance(storage_of(str(tmp_path)), LocalStorage)


def test_files_are_listed_and_read_back(storage: Storage) -> None:
    storage.make()
    assert storage.names() == []
    storage.replace("a", b"first")
    with storage.stage("a") as staged:
        staged.write(b"sec")
        staged.write(b"ond")
        staged.publish("b")
    assert sorted(storage.names()) == storage.files() == ["a", "b"]
    assert storage.read("b", 6) == b"second"
    with storage.open("b") as file:
        assert file.read() == b"second"
    storage.remove("a")
    assert storage.files() == ["b"]
    assert storage.modified("b") > 0
    assert storage.free_bytes() > 0


def test_a_directory_that_does_not_exist_has_no_names(storage: Storage) -> None:
    assert storage.names() == []
    storage.make()
    storage.replace("a", b"")


def test_a_file_is_created_once(storage: Storage) -> None:
    storage.make()
    assert storage.create("claim", b"mine")
    assert not storage.create("claim", b"theirs")
    assert storage.read("claim", 100) == b"mine"


def test_a_long_file_is_not_read(storage: Storage) -> None:
    storage.make()
    storage.replace("claim", b"x" * 101)
    with pytest.raises(OSError, match="longer than 100 bytes"):
        storage.read("claim", 100)


def test_a_staged_file_is_gone_unless_published(storage: Storage) -> None:
    storage.make()
    storage.replace("a", b"kept")
    with pytest.raises(KeyboardInterrupt), storage.stage("a") as staged:
        staged.write(b"half")
        raise KeyboardInterrupt
    assert storage.files() == ["a"]
    assert storage.read("a", 10) == b"kept"


def local(directory: Path) -> LocalStorage:
    return LocalStorage(str(directory))


def test_links_pipes_and_folders_behind_links_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    run = tmp_path / "run"
    (run / "below").mkdir(parents=True)
    (run / "below" / "regular").touch()
    (run / "link").symlink_to(tmp_path / "outside" / "secret")
    (run / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(run / "pipe")
    assert local(run).files() == ["below/regular"]


def test_links_of_a_remote_file_system_are_not_listed() -> None:
    class WithLinks(MemoryFileSystem):
        """Lists a link as the file system of SFTP does."""

        protocol = "with-links"
        store: dict[str, Any] = {}
        pseudo_dirs = [""]

        def find(self, path: str, **kwargs: Any) -> Any:
            return {f"{path}/file": {"type": "file"}, f"{path}/link": {"type": "link"}}

    fsspec.register_implementation("with-links", WithLinks)
    assert RemoteStorage("with-links://run").files() == ["file"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=kind):
        local(tmp_path).open(kind)


def test_a_file_that_could_not_be_written_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        local(tmp_path).create("claim", "no bytes")
    assert list(tmp_path.iterdir()) == []


def test_a_staged_file_has_the_permissions_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "private").touch(0o600)
    with local(tmp_path).stage("private") as staged:
        staged.publish("copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


def test_a_staged_file_never_runs_as_its_owner(tmp_path: Path) -> None:
    # Root may repair the run of a user who put a program in it.
    (tmp_path / "program").write_bytes(b"x")
    (tmp_path / "program").chmod(0o6755)
    with local(tmp_path).stage("program") as staged:
        staged.publish("copy")
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_staged_file_has_the_owner_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"x")
    os.chown(tmp_path / "events", 12345, 23456)
    with local(tmp_path).stage("events") as staged:
        staged.publish("copy")
    copied = (tmp_path / "copy").stat()
    assert (copied.st_uid, copied.st_gid) == (12345, 23456)


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    with local(tmp_path).lock(0.0) as is_locked:
        assert is_locked
        with pytest.raises(TimeoutError), local(tmp_path).lock(0.0):
            pass
    with local(tmp_path).lock(0.0) as is_locked:
        assert is_locked
