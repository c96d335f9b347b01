"""What reaches the trackers: scalars and histograms, each once, and nothing else."""

import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tbtrainer.arguments import MIRRORS
from tbtrainer.isolation import Isolation
from tbtrainer.records import Histogram, HistogramRecord, JsonLine, Record, Scalar, Text
from tbtrainer.run import Mirrors, RunSession, mirror, mirrors
from tests.fake_tracker import FakeTracker
from tests.limits import HANG_SECONDS

HISTOGRAM = Histogram(0.0, 2.0, 3, 3.0, 5.0, np.array([1.0, 2.0]), np.array([1.0, 2.0]))
RECORDS: list[Record] = [
    Scalar("grad_norm/total", 0.5),
    Scalar("train/loss", 0.25, is_logged=True),
    HistogramRecord("parameters/weight", HISTOGRAM),
    Text("run/model", "a card"),
    JsonLine("health.jsonl", {"loss": 1}),
]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTracker]:
    tracker = FakeTracker()
    monkeypatch.setitem(mirrors.TRACKERS, "fake", lambda: tracker)
    yield tracker
    tracker.answers.set()


def mirrors_to(*names: str, callbacks: tuple[str, ...] = ()) -> Mirrors:
    chosen = Mirrors(callbacks.__contains__, Isolation("warn"))
    chosen.choose(names)
    return chosen


def sent(mirrors: Mirrors, tracker: FakeTracker, *records: Record) -> list[str]:
    """Tags of what the tracker got of some records."""
    for record in records or RECORDS:
        mirrors.put(record, 7)
    mirrors.close(HANG_SECONDS)
    return [tag for _, tag, _ in tracker.sent]


def test_scalars_and_histograms_are_passed_on(tracker: FakeTracker) -> None:
    assert sent(mirrors_to("fake"), tracker) == [
        "grad_norm/total",
        "train/loss",
        "parameters/weight",
    ]
    assert tracker.sent[2] == (7, "parameters/weight", HISTOGRAM)


def test_what_a_callback_logs_comes_from_it_alone(tracker: FakeTracker) -> None:
    mirrors = mirrors_to("fake", callbacks=("fake",))
    assert sent(mirrors, tracker) == ["grad_norm/total", "parameters/weight"]


def test_a_tracker_that_reads_event_files_gets_nothing(
    tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.follows = True
    mirrors = mirrors_to("fake")
    assert mirrors.problem() is None
    assert mirrors.problem() is None
    assert sent(mirrors, tracker) == []
    assert caplog.text.count("mirror_to=['fake'] does nothing") == 1


def test_without_a_run_one_warning_says_how_to_begin(
    tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.run = None
    assert sent(mirrors_to("fake"), tracker) == []
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "call fake.init()" in warned[0]


def test_a_training_without_a_run_names_what_to_do(tracker: FakeTracker) -> None:
    tracker.run = None
    assert mirrors_to("fake").problem() == (
        "mirror_to=['fake']: fake has no run, and tbtrainer begins none. Call fake.init() before "
        "train(), or leave 'fake' out."
    )
    # The callback of transformers begins one.
    assert mirrors_to("fake", callbacks=("fake",)).problem() is None


def test_each_value_goes_to_the_run_it_was_logged_in(tracker: FakeTracker) -> None:
    mirrors = mirrors_to("fake")
    for tracker.run in ("first", "second"):
        mirrors.put(Scalar("loss", 1.0), 1)
    mirrors.close(HANG_SECONDS)
    assert [run for run, _, _ in tracker.rows] == ["first", "second"]


def test_another_choice_keeps_the_mirror_that_stays(tracker: FakeTracker) -> None:
    mirrors = mirrors_to("fake")
    tracker.answers.clear()
    mirrors.put(Scalar("loss", 1.0), 1)
    mirrors.choose(["fake"])
    tracker.answers.set()
    mirrors.close(HANG_SECONDS)
    assert len(tracker.rows) == 1
    mirrors.choose([])
    assert len(sent(mirrors, tracker)) == 1


def test_a_copy_mirrors_what_it_is_given(tracker: FakeTracker) -> None:
    mirrors = copy.deepcopy(mirrors_to("fake"))
    assert mirrors.problem() is None
    assert len(sent(mirrors, tracker)) == 3


def test_a_forked_child_mirrors_nothing(tracker: FakeTracker) -> None:
    mirrors = mirrors_to("fake")
    child = os.fork()
    if child == 0:
        sent(mirrors, tracker)
        os._exit(len(tracker.rows))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(sent(mirrors, tracker)) == 3


def test_a_tracker_that_hangs_delays_no_other(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hung = FakeTracker()
    hung.name = "hung"
    hung.answers.clear()
    monkeypatch.setitem(mirrors.TRACKERS, "hung", lambda: hung)
    monkeypatch.setattr(mirror, "GATHER_SECONDS", HANG_SECONDS)
    both = mirrors_to("hung", "fake")
    for record in RECORDS:
        both.put(record, 7)
    both.close(2.0)
    assert len(tracker.sent) == 3
    assert "values are missing in hung" in caplog.text
    assert "values are missing in fake" not in caplog.text
    hung.answers.set()


def test_a_session_mirrors_what_it_has_written(tracker: FakeTracker, tmp_path: Path) -> None:
    mirrors = mirrors_to("fake")
    session = RunSession(
        str(tmp_path / "run"), str(tmp_path), writes=True, isolation=None, mirrors=mirrors
    )
    session.write(RECORDS, 3)
    session.close()
    assert [step for step, _, _ in tracker.sent] == [3, 3, 3]


def test_a_rank_that_does_not_write_mirrors_nothing(tracker: FakeTracker, tmp_path: Path) -> None:
    session = RunSession(None, str(tmp_path), writes=False, mirrors=mirrors_to("fake"))
    session.write(RECORDS, 3)
    session.close()
    assert tracker.rows == []


def test_the_argument_allows_the_trackers_that_exist() -> None:
    assert tuple(mirrors.TRACKERS) == MIRRORS
