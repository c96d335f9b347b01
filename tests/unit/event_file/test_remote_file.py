"""A run on an object store: whole parts, claimed, rewound and resumed like a local one."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tbtrainer.run import Counters, RunWriter, check_run_directory, claim_run_directory, rewind
from tests.events import events, scalars
from tests.limits import HANG_SECONDS
from tests.offering import offer

STORE = fsspec.filesystem("memory")


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    place = f"memory://{request.node.name}/run"
    yield place
    STORE.rm(f"/{request.node.name}", recursive=True)


def steps_in(url: str, place: Path) -> list[int]:
    """Steps of the event files, as a loader finds them after a copy."""
    steps = []
    for number, path in enumerate(sorted(STORE.find(url))):
        if "tfevents" in path:
            copy = place / f"{number}.tfevents"
            copy.write_bytes(STORE.cat_file(path))
            assert next(events(copy)).file_version
            steps += [step for _, step, _ in scalars(copy)]
    return steps


def test_a_remote_run_is_read_in_order_of_its_parts(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbtrainer.event_file.remote_file._PART_BYTES", 1000)
    writer = RunWriter(claim_run_directory(url)[0])
    for first in range(0, 100, 20):
        offer(writer, range(first, first + 20))
        writer.flush(3600.0)
    writer.close()
    assert len([path for path in STORE.find(url) if "tfevents" in path]) > 2
    assert steps_in(url, tmp_path) == list(range(100))


def test_a_log_call_does_not_wait_for_a_remote_store(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, released = STORE.pipe_file, threading.Event()

    def blocked(*args: object, **kwargs: object) -> None:
        released.wait()
        put(*args, **kwargs)

    monkeypatch.setattr(type(STORE), "pipe_file", staticmethod(blocked))
    # If a log call waited, the test would last an hour.
    monkeypatch.setattr("tbtrainer.event_file.waiting.LOG_SECONDS", 3600.0)
    writer = RunWriter(url)
    offer(writer, range(20))
    assert writer.counters == Counters(written=0, pending=20, dropped=0)
    released.set()
    writer.close()
    assert writer.counters == Counters(written=20, pending=0, dropped=0)


def test_the_end_waits_for_a_slow_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = STORE.pipe_file

    def slow(*args: object, **kwargs: object) -> None:
        time.sleep(1.2)
        put(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(type(STORE), "pipe_file", staticmethod(slow))
        writer = RunWriter(url)
        offer(writer, range(20))
        writer.close()
    assert steps_in(url, tmp_path) == list(range(20))


def test_a_store_that_fails_is_tried_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = type(STORE).pipe_file
    calls: list[str] = []
    tried_again, may_write = threading.Event(), threading.Event()

    def refuse_once(store: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append("pipe_file")
        if len(calls) == 1:
            raise RuntimeError("SlowDown")
        tried_again.set()
        may_write.wait(HANG_SECONDS)
        return original(store, *args, **kwargs)

    monkeypatch.setattr(type(STORE), "pipe_file", refuse_once)
    writer = RunWriter(url)
    offer(writer, range(20))
    # Not after the first call: a fault that is found while the writer closes is not tried again.
    assert tried_again.wait(HANG_SECONDS)
    assert writer.counters.pending == 20
    may_write.set()
    writer.close()
    assert steps_in(url, tmp_path) == list(range(20))


def test_a_remote_run_is_rewound_and_goes_on(url: str, tmp_path: Path) -> None:
    writer = RunWriter(url)
    offer(writer, range(10))
    writer.close()
    assert rewind(url, 5) == 4
    once = {path: STORE.cat_file(path) for path in STORE.find(url)}
    assert rewind(url, 5) == 0
    assert {path: STORE.cat_file(path) for path in STORE.find(url)} == once
    assert [path for path in once if "removed-after-5" in path]
    writer = RunWriter(url, purge_step=6)
    offer(writer, range(6, 12))
    writer.close()
    assert steps_in(url, tmp_path) == list(range(12))


def test_a_protocol_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> type:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.get_filesystem_class", missing)
    with pytest.raises(ValueError, match=r"logging_dir: s3:// needs a package.*Install s3fs"):
        check_run_directory("s3://bucket/run")


def test_an_unknown_protocol_is_said_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"nowhere:// is no protocol.*s3"):
        check_run_directory("nowhere://bucket/run")


def test_credentials_in_a_url_are_in_no_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(type(STORE), "pipe_file", refuse)
    writer = RunWriter("memory://user:MARKER7f3a9c@store/run")
    offer(writer, range(3))
    writer.close()
    assert "cannot be written" in caplog.text
    assert "MARKER7f3a9c" not in caplog.text
