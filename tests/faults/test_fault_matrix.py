"""Faults on real file systems: of each, how many records are offered, readable and dropped.

Every row logs 100 records before the fault, 100 while it lasts and 100 after it. None is dropped,
because the queue has room, and all are shown afterwards by every loader of TensorBoard: in the run
directory, or in the file that the warning names.
"""

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbtrainer.run import Counters, RunWriter
from tests.events import event_files, scalars
from tests.faults import disk
from tests.loaders import LOADERS, Loader, loading

PART = 100


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """EROFS, as after an error of the file system. A file open for writing keeps it writable."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


@contextmanager
def unmounted(place: Path) -> Iterator[None]:
    """The mount is lost while the event file is open, and does not come back."""
    disk.lose(place)
    yield


@contextmanager
def without_inodes(place: Path) -> Iterator[None]:
    """Room, but not for another file: ENOSPC from `open`."""
    made = []
    with pytest.raises(OSError, match="No space"):
        for number in range(1000):
            made.append(place / f"file-{number}")
            made[-1].touch()
    yield
    for file in made[:-1]:
        file.unlink()


@contextmanager
def without_descriptors(place: Path) -> Iterator[None]:
    """EMFILE: the process has as many files open as it may."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    held = []
    with pytest.raises(OSError, match="Too many open files"):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def with_files_limited(place: Path) -> Iterator[None]:
    """EFBIG: a file may not grow any further."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def replaced_by_a_file(place: Path) -> Iterator[None]:
    """The run directory was moved away, and a file stands in its place: ENOTDIR, EEXIST."""
    (place / "run").rename(place / "moved")
    (place / "run").write_text("no directory")
    yield
    (place / "run").unlink()


@contextmanager
def deleted(place: Path) -> Iterator[None]:
    """The run directory was moved away: it is made again."""
    (place / "run").rename(place / "moved")
    yield


@contextmanager
def replaced_by_another(place: Path) -> Iterator[None]:
    """Another file has the event file's name, as after a rotation."""
    (file,) = event_files(place)
    file.rename(place / f"rotated-{file.name}")
    file.touch()
    yield


@contextmanager
def rotated(place: Path) -> Iterator[None]:
    """The event file gets another name in its directory."""
    (file,) = event_files(place)
    file.rename(f"{file}.1")
    yield


@contextmanager
def linked(place: Path) -> Iterator[None]:
    """The run directory becomes a link to where it was moved."""
    (place / "run").rename(place / "moved")
    (place / "run").symlink_to(place / "moved")
    yield


@contextmanager
def injected(code: int) -> Iterator[None]:
    """An error that only a broken device gives."""
    with disk.writes(disk.failing(code, torn=True)):
        yield


@dataclass(frozen=True)
class Row:
    """A fault, and how the disk is made that has it."""

    fault: Callable[[Path], AbstractContextManager[None]]
    mount: str | None = None
    closed_before: bool = False
    # Whether appends fail while it lasts, rather than continue in another file.
    is_lasting: bool = True


ROWS = {
    "full disk": Row(disk.without_room, mount="size=64k"),
    "read-only": Row(read_only, mount="size=64k", closed_before=True),
    "lost mount": Row(unmounted, mount="size=64k", is_lasting=False),
    "no inodes": Row(without_inodes, mount="size=64k,nr_inodes=10", closed_before=True),
    "no descriptors": Row(without_descriptors, closed_before=True),
    "file size limit": Row(with_files_limited),
    "directory replaced": Row(replaced_by_a_file),
    "directory deleted": Row(deleted, is_lasting=False),
    "file replaced": Row(replaced_by_another, is_lasting=False),
    "file rotated": Row(rotated, is_lasting=False),
    "directory moved and linked": Row(linked, is_lasting=False),
    "I/O error": Row(lambda place: injected(errno.EIO)),
    "stale handle": Row(lambda place: injected(errno.ESTALE)),
    "quota": Row(lambda place: injected(errno.EDQUOT)),
}
# Where nothing can be mounted, the errors themselves are injected.
INJECTED = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "no inodes": errno.ENOSPC}


def offer(writer: RunWriter, first: int) -> None:
    for step in range(first, first + PART):
        writer.add_scalar("value", step, step)
    writer.flush()


def readable(*places: Path) -> set[int]:
    return {step for p in places for file in event_files(p) for _, step, _ in scalars(file)}


@contextmanager
def made_ready(row: Row, place: Path) -> Iterator[None]:
    if row.mount is not None and disk.may_mount():
        with disk.small_disk(place, row.mount):
            yield
    else:
        place.mkdir(exist_ok=True)
        yield


def run_row(row: Row, name: str, place: Path, kept: Path) -> Counters:
    """Logs before, during and after a fault, and copies the event files to where they stay.

    Args:
        row: The fault.
        name: Its name.
        place: Where the disk is mounted, or a directory.
        kept: Where copies of the event files are put.
    """
    fault = row.fault
    if row.mount is not None and not disk.may_mount() and name in INJECTED:
        code = INJECTED[name]
        fault = lambda place: injected(code)  # noqa: E731
    with made_ready(row, place):
        writer = RunWriter(str(place / "run"))
        offer(writer, 0)
        disk.wait_until(lambda: writer.counters.pending == 0)
        if name == "lost mount":  # What it holds is lost with it.
            shutil.copytree(place, kept / "before")
        if row.closed_before:
            # A disk cannot become read-only under an open file; and a held descriptor needs neither
            # another inode nor another descriptor.
            writer.close()
            (kept / "before").mkdir(parents=True)
            shutil.move(event_files(place)[0], kept / "before")
        with fault(place):
            offer(writer, PART)
            if row.is_lasting:
                disk.wait_until(lambda: writer._events._delivery.fault is not None)
        offer(writer, 2 * PART)
        disk.wait_until(lambda: writer.counters.pending == 0)
        writer.close()
        for file in event_files(place):
            folder = kept / file.parent.relative_to(place)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder)
    return writer.counters


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Counters]]:
    """A directory with the event files of every row, and what became of its records."""
    kept = tmp_path_factory.mktemp("kept")
    places = tmp_path_factory.mktemp("places")
    return kept, {
        name: run_row(row, name, places / f"disk-{number}", kept / name)
        for number, (name, row) in enumerate(ROWS.items())
    }


@pytest.fixture(scope="module", params=LOADERS)
def loader(
    request: pytest.FixtureRequest, rows: tuple[Path, dict[str, Counters]]
) -> Iterator[Loader]:
    with loading(rows[0], request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", ROWS)
def test_offered_300_written_300_dropped_0(
    name: str, rows: tuple[Path, dict[str, Counters]]
) -> None:
    assert rows[1][name] == Counters(written=3 * PART, pending=0, dropped=0)


@pytest.mark.parametrize("name", ROWS)
def test_every_loader_shows_all_300_steps(
    name: str, rows: tuple[Path, dict[str, Counters]], loader: Loader
) -> None:
    logged = set(range(3 * PART))
    assert loader.steps(name, "value", logged) == logged


@pytest.mark.parametrize("name", ["name too long", "file in the way", "read-only"])
def test_never_writable_offered_300_readable_300_in_the_named_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    row = Row(read_only, mount="size=64k")
    mounted = name == "read-only" and disk.may_mount()
    with made_ready(row if mounted else Row(read_only), place):
        below = "n" * 300 if name == "name too long" else "run"
        if not mounted and below == "run":
            (place / "run").write_text("no directory")
        with read_only(place) if mounted else disk.writes(os.write):
            writer = RunWriter(str(place / below / "logs"))
            for part in range(3):
                offer(writer, part * PART)
            writer.close()
    assert readable(elsewhere) == set(range(3 * PART))
    assert readable(place) == set()
    assert writer.counters == Counters(written=3 * PART, pending=0, dropped=0)
    assert str(event_files(elsewhere)[0]) in caplog.text


def test_a_full_disk_and_the_fallback_hold_all_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    place = tmp_path / "disk"
    place.mkdir()
    small = disk.small_disk(place, "size=64k")
    with small if disk.may_mount() else disk.writes(disk.full(after_bytes=20_000)):
        writer = RunWriter(str(place / "run"))
        for part in range(15):
            offer(writer, part * PART)
        writer.close()
        there, here = readable(place), readable(elsewhere)
    # What fits is in the run directory, to the last whole record.
    assert len(there) > 100
    assert there | here == set(range(1500))
    assert writer.counters == Counters(written=1500, pending=0, dropped=0)


def test_nothing_anywhere_offered_300_readable_100_dropped_200(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    writer = RunWriter(str(tmp_path / "run"))
    offer(writer, 0)
    disk.wait_until(lambda: writer.counters.pending == 0)
    with disk.writes(disk.failing(errno.EIO)):
        offer(writer, PART)
        offer(writer, 2 * PART)
        writer.close()
    assert readable(tmp_path) == set(range(PART))
    assert writer.counters == Counters(written=PART, pending=0, dropped=2 * PART)
    assert "200 records of the run" in caplog.text
