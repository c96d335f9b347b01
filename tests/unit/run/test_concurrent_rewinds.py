"""Two rewinds at once, or a rewind beside a writer, lose no record."""

import errno
import fcntl
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.event_file.local_storage import LocalStorage
from tbtrainer.run import rewind
from tests.events import event_files, steps_in
from tests.rewinding import crashed_at, records, written


def test_a_second_rewind_waits_for_the_first(tmp_path: Path) -> None:
    written(tmp_path, list(range(10)))
    first = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = threading.Thread(target=rewind, args=(str(tmp_path), 5))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert steps_in(tmp_path) == list(range(10))
    os.close(first)
    second.join()
    assert steps_in(tmp_path) == list(range(6))


def test_a_rewind_kept_waiting_too_long_changes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tbtrainer.run.rewind"], "_LOCK_SECONDS", 0.1)
    written(tmp_path, list(range(10)))
    first = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="another process"):
        rewind(str(tmp_path), 5)
    os.close(first)
    assert steps_in(tmp_path) == list(range(10))


def rewind_and_die(run: Path, moment: int) -> None:
    """Rewinds in another process, which is killed at the call of this number."""
    child = os.fork()
    if child == 0:
        os._exit(9 if crashed_at(moment, run, kill=True) else 0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("locks", [True, False])
def test_a_rewind_beside_a_killed_one_loses_no_record(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:

        def unsupported(*args: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", unsupported)
    written(tmp_path / "original", list(range(100)))
    everything = {r for path in (tmp_path / "original").iterdir() for r in records(path)}
    for moment in range(14):
        run = tmp_path / str(moment)
        shutil.copytree(tmp_path / "original", run)
        rewind_and_die(run, moment)
        rewind(str(run), 5)
        assert steps_in(run) == list(range(6))
        assert {r for path in run.iterdir() for r in records(path)} == everything
        if locks:
            assert not [path for path in run.iterdir() if path.name.endswith(".being-written")]


def test_two_rewinds_at_once_without_locks_lose_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    written(tmp_path, list(range(100)))
    everything = {r for path in tmp_path.iterdir() for r in records(path)}
    half_done, continued = threading.Event(), threading.Event()
    fsync = os.fsync

    def paused(descriptor: int) -> None:
        if threading.current_thread() is first and not half_done.is_set():
            half_done.set()
            continued.wait()
        fsync(descriptor)

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(os, "fsync", paused)
    first = threading.Thread(target=rewind, args=(str(tmp_path), 5))
    first.start()
    half_done.wait()
    rewind(str(tmp_path), 5)
    continued.set()
    first.join()
    assert steps_in(tmp_path) == list(range(6))
    assert {r for path in tmp_path.iterdir() for r in records(path)} == everything


def test_records_written_during_a_rewind_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, list(range(10)))
    (file,) = event_files(tmp_path)
    written(tmp_path / "late", [20, 21])
    late = records(event_files(tmp_path / "late")[0])[-2:]
    shutil.rmtree(tmp_path / "late")
    replace, waiting = os.replace, iter(late)

    with open(file, "ab", buffering=0) as appending:

        def replaced(source: str, target: str) -> None:
            # Once before the file is replaced and once after.
            if record := next(waiting, None):
                appending.write(record)
            replace(source, target)

        monkeypatch.setattr(os, "replace", replaced)
        rewind(str(tmp_path), 5)
    assert steps_in(tmp_path) == list(range(6))
    kept = {record for path in tmp_path.iterdir() for record in records(path)}
    assert set(late) <= kept


def test_a_record_completed_during_a_rewind_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, list(range(10)))
    (file,) = event_files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    opened = LocalStorage.stage

    def completed(storage: LocalStorage, like: str) -> Any:
        file.write_bytes(content)
        return opened(storage, like)

    monkeypatch.setattr(LocalStorage, "stage", completed)
    rewind(str(tmp_path), 9)
    assert steps_in(tmp_path) == list(range(10))
