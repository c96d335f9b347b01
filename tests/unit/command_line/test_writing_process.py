"""Which process writes a run, and what that says about its status."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tbtrainer.command_line.run_status import status_of
from tbtrainer.command_line.writing_process import (
    Presence,
    WritingProcess,
    processes_that_write,
    writing_process,
)
from tbtrainer.event_file.names import event_file_name
from tbtrainer.reading import HParams, Session
from tests.event_runs import NO_PROCESS, event_file_of


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that has a file open for writing, and the file."""
    path = tmp_path / "events.out.tfevents.1.host.1.0"
    code = f"import sys; file = open({str(path)!r}, 'ab'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid, path
        process.communicate()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("events.out.tfevents.1700.a.b.7-0", WritingProcess(1700, "a.b", 7)),
        ("events.out.tfevents.1700.host.7.0", WritingProcess(1700, "host", 7)),
        ("events.out.tfevents.1700.host.7.0.v2", WritingProcess(1700, "host", 7)),
        ("events.out.tfevents.1700.host.7-3.part-of-run", WritingProcess(1700, "host", 7)),
        ("run.tfevents", None),
        ("events.out.tfevents.x.host.7-0", None),
    ],
)
def test_the_name_says_who_wrote_it(name: str, expected: WritingProcess | None) -> None:
    assert writing_process(name) == expected


def test_names_of_tbtrainer_and_of_this_process_are_understood() -> None:
    process = writing_process(event_file_name([], 0))
    assert process is not None
    assert (process.pid, process.host) == (os.getpid(), socket.gethostname())
    assert process.presence() == "running"


def test_a_process_that_ended_is_known_to_have_ended() -> None:
    process = writing_process(event_file_of(NO_PROCESS))
    assert process is not None and process.presence() == "ended"


def test_an_id_that_was_given_out_again_is_another_process() -> None:
    before = int(psutil.Process().create_time()) - 1000
    assert WritingProcess(before, socket.gethostname(), os.getpid()).presence() == "ended"


def test_a_process_of_another_machine_is_unknown() -> None:
    assert WritingProcess(0, "another-machine", os.getpid()).presence() == "unknown"


def test_a_process_with_the_file_open_writes(writer: tuple[int, Path]) -> None:
    assert processes_that_write([str(writer[1])]) == [writer[0]]


def test_a_process_that_a_name_names_may_write(tmp_path: Path) -> None:
    path = tmp_path / event_file_of(os.getpid(), int(time.time()) + 1)
    assert processes_that_write([str(path)]) == [os.getpid()]


def test_a_process_that_only_reads_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / event_file_of(NO_PROCESS)
    path.write_bytes(b"")
    with open(path, "rb"):
        assert processes_that_write([str(path), str(tmp_path / "missing")]) == []


def session(begin: float) -> Session:
    return Session(0, (), None, 0, 10, begin, begin + 10, 1)


@pytest.mark.parametrize(
    "hparams, begin, presence, expected",
    [
        (HParams(status="success", end_time=20), 10, "ended", "finished"),
        (HParams(status="failure", end_time=20), 10, "ended", "failed"),
        (HParams(status="success", end_time=20), 10, "running", "finished"),
        # The run was resumed after its end.
        (HParams(status="success", start_time=1, end_time=20), 30, "running", "running"),
        (HParams(status="success", start_time=1, end_time=20), 30, "ended", "failed"),
        (HParams(start_time=1), 10, "running", "running"),
        (HParams(start_time=1), 10, "ended", "failed"),
        (HParams(start_time=1), 10, "unknown", "unknown"),
        (HParams(), 10, "ended", "unknown"),
        (HParams(), 10, "running", "running"),
    ],
)
def test_the_status_follows_from_end_and_process(
    hparams: HParams, begin: float, presence: Presence, expected: str
) -> None:
    assert status_of(hparams, [session(begin)], presence).name == expected
