"""A second event file of one session, whatever it was begun for, hides nothing in any loader."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tbtrainer.run import RunWriter, rewind
from tests.events import event_files, scalars
from tests.faults import disk
from tests.loaders import LOADERS, Loader, loading
from tests.offering import offer, written

# Steps that were logged, by tag.
Logged = dict[str, set[int]]


def another_program(run: Path, steps: range) -> None:
    """Writes an event file that loaders read after the present ones."""
    time.sleep(1.1)  # Its name has the time in seconds.
    other = SummaryWriter(str(run))
    offer(other, steps, "other")
    other.close()


def newer_file_of_another_program(run: Path) -> Logged:
    """An evaluation after the training, when another program has begun a file with later steps."""
    writer = written(run, range(100))
    writer.close()
    another_program(run, range(1000, 1010))
    offer(writer, range(100, 110))
    writer.close()
    assert len(event_files(run)) == 3
    return {"value": set(range(110)), "other": set(range(1000, 1010))}


def fresh_run_beside_another_program(run: Path) -> Logged:
    """The first file of a session that replaces nothing."""
    another_program(run, range(39))
    writer = written(run, range(20))
    writer.close()
    return {"value": set(range(20)), "other": set(range(39))}


def rotated(run: Path) -> Logged:
    """The file is renamed in its directory, as a log file is."""
    writer = written(run, range(100))
    (file,) = event_files(run)
    file.rename(f"{file}.1")
    offer(writer, range(100, 110))
    writer.close()
    return {"value": set(range(110))}


def half_truncated(run: Path) -> Logged:
    """Another program cuts the file, in the middle of a record."""
    writer = written(run, range(100))
    (file,) = event_files(run)
    os.truncate(file, file.stat().st_size // 2 + 3)
    kept = {step for _, step, _ in scalars(file)}
    offer(writer, range(100, 110))
    writer.close()
    return {"value": {*kept, *range(100, 110)}}


def deleted_while_closed(run: Path) -> Logged:
    """The directory is deleted between a training and an evaluation."""
    writer = written(run, range(100))
    writer.close()
    shutil.rmtree(run)
    offer(writer, range(100, 110))
    writer.close()
    return {"value": set(range(100, 110))}


def end_cannot_be_cut(run: Path) -> Logged:
    """EIO in the middle of a record, and again when the end is cut off."""
    writer = written(run, range(100))

    def refuse(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "ftruncate", refuse)
        with disk.writes(disk.failing_once(errno.EIO)):
            offer(writer, range(100, 110))
            disk.wait_until(lambda: writer.counters.written == 110)
    writer.close()
    assert len(event_files(run)) == 2
    return {"value": set(range(110))}


def immutable(run: Path) -> Logged:
    """`chattr +i` on the file: neither a write nor a cut is allowed, a new file is."""
    writer = written(run, range(100))

    def refuse(*args: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    first = writer._events._delivery._file.path
    begun = iter([refuse] * 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "ftruncate", refuse)
        with disk.writes(lambda d, data: next(begun, os.write)(d, data)):
            offer(writer, range(100, 110))
            disk.wait_until(lambda: writer.counters.written == 110)
    writer.close()
    assert writer._events._delivery._file.path != first
    return {"value": set(range(110))}


def old_job_beside_the_resumed_one(run: Path) -> Logged:
    """A job that was thought dead logs on while another has resumed from its checkpoint."""
    old = written(run, range(1, 21))
    rewind(str(run), 20)
    resumed = RunWriter(str(run), purge_step=21)
    offer(resumed, range(21, 31))
    resumed.close()
    old.close()
    offer(old, range(31, 33))
    old.close()
    return {"value": set(range(1, 33))}


def many_closes(run: Path) -> Logged:
    """Every close is followed by a newer file of another session."""
    first, second = RunWriter(str(run)), RunWriter(str(run))
    for step in range(0, 40, 10):
        for number, writer in enumerate((first, second)):
            offer(writer, range(step + 5 * number, step + 5 * number + 5))
            writer.close()
    assert len(event_files(run)) > 4
    return {"value": set(range(40))}


def extreme_step(run: Path) -> Logged:
    """The last step that an event can have, and a file begun after it."""
    writer = written(run, range(2**63 - 1, 2**63))
    (file,) = event_files(run)
    file.rename(f"{file}.1")
    offer(writer, range(5, 10))
    writer.close()
    assert writer.counters.written == 6
    return {"value": set(range(5, 10))}


SCENES: dict[str, Callable[[Path], Logged]] = {
    scene.__name__: scene
    for scene in (
        newer_file_of_another_program,
        fresh_run_beside_another_program,
        rotated,
        half_truncated,
        deleted_while_closed,
        end_cannot_be_cut,
        immutable,
        old_job_beside_the_resumed_one,
        many_closes,
        extreme_step,
    )
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Logged]]:
    """A directory with the run of every scene, and the steps that it logged."""
    directory = tmp_path_factory.mktemp("runs")
    logged = {name: scene(directory / name) for name, scene in SCENES.items()}
    return directory, logged


@pytest.fixture(scope="module", params=LOADERS)
def loader(
    request: pytest.FixtureRequest, runs: tuple[Path, dict[str, Logged]]
) -> Iterator[Loader]:
    with loading(runs[0], request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", SCENES)
def test_a_second_file_hides_no_step(
    name: str, runs: tuple[Path, dict[str, Logged]], loader: Loader
) -> None:
    assert runs[1][name]
    for tag, logged in runs[1][name].items():
        # The loaders differ in what they show of a step that none can come after.
        shown = loader.steps(name, tag, logged) - {2**63 - 1}
        assert shown == logged
