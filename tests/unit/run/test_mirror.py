"""A mirror sends each value once. Faults and pace of its tracker do not reach the caller."""

import copy
import logging
import re
import tracemalloc

import numpy as np
import pytest

from tbtrainer.isolation import Isolation
from tbtrainer.records import Histogram
from tbtrainer.run import mirror as module
from tbtrainer.run.mirror import Mirror, Value, rows_of, size_of
from tests.fake_tracker import FakeTracker
from tests.limits import HANG_SECONDS


@pytest.fixture
def tracker() -> FakeTracker:
    return FakeTracker()


@pytest.fixture
def mirror(tracker: FakeTracker) -> Mirror:
    return Mirror(tracker, Isolation("warn"))


def put(mirror: Mirror, *steps: int, tag: str = "loss") -> None:
    for step in steps:
        mirror.put(Value("run", step, tag, float(step)))


def histogram(buckets: int = 64) -> Histogram:
    numbers = np.arange(float(buckets))
    return Histogram(0.0, float(buckets), buckets, 1.0, 1.0, numbers, numbers.copy())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_each_value_arrives_once_at_its_step(mirror: Mirror, tracker: FakeTracker) -> None:
    put(mirror, *range(100))
    mirror.close(HANG_SECONDS)
    assert tracker.sent == [(step, "loss", float(step)) for step in range(100)]


def test_values_of_one_step_make_one_row() -> None:
    values = [Value("run", 1, "a", 1.0), Value("run", 2, "a", 2.0), Value("run", 1, "b", 3.0)]
    assert [(row.step, row.values) for row in rows_of(values)] == [
        (1, {"a": 1.0, "b": 3.0}),
        (2, {"a": 2.0}),
    ]


def test_a_tag_that_comes_twice_is_in_two_rows() -> None:
    rows = rows_of([Value("run", 1, "a", 1.0), Value("run", 1, "a", 2.0)])
    assert [row.values for row in rows] == [{"a": 1.0}, {"a": 2.0}]


def test_values_of_two_runs_are_never_in_one_row() -> None:
    rows = rows_of([Value("first", 1, "a", 1.0), Value("second", 1, "b", 2.0)])
    assert [(row.run, row.values) for row in rows] == [
        ("first", {"a": 1.0}),
        ("second", {"b": 2.0}),
    ]


def test_a_row_has_a_limited_size(
    mirror: Mirror, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 20_000)
    for number in range(100):
        mirror.put(Value("run", 1, str(number), histogram()))
    mirror.close(HANG_SECONDS)
    assert sorted(int(tag) for _, tag, _ in tracker.sent) == list(range(100))
    sizes = [
        sum(size_of(Value(*row[:2], *item)) for item in row[2].items()) for row in tracker.rows
    ]
    assert max(sizes) < 20_000 + size_of(Value("run", 1, "99", histogram()))


def test_a_caller_does_not_wait_for_a_tracker_that_hangs(
    mirror: Mirror, tracker: FakeTracker
) -> None:
    tracker.answers.clear()
    put(mirror, 1)
    assert tracker.asked.wait(HANG_SECONDS)
    put(mirror, 2, 3)  # These calls and the next return, though the tracker does not.
    mirror.flush()
    assert tracker.rows == []
    tracker.answers.set()
    mirror.close(HANG_SECONDS)
    assert [step for step, _, _ in tracker.sent] == [1, 2, 3]


def test_a_log_call_sends_what_waits_at_once(
    mirror: Mirror, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", HANG_SECONDS)
    put(mirror, 1)
    mirror.flush()
    assert tracker.asked.wait(HANG_SECONDS)


def test_values_are_sent_without_a_log_call(mirror: Mirror, tracker: FakeTracker) -> None:
    put(mirror, 1)
    assert tracker.asked.wait(HANG_SECONDS)


def test_values_that_were_not_sent_are_counted_once(
    mirror: Mirror, tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.answers.clear()
    put(mirror, 1, 2)
    mirror.close(0.01)
    mirror.close(HANG_SECONDS)  # Does not wait for a tracker that hangs already.
    assert len(warnings(caplog)) == 1
    assert "2 values are missing in fake: 2 wait, because fake does not answer" in caplog.text
    tracker.answers.set()


def test_a_tracker_that_answers_again_is_waited_for(
    mirror: Mirror, tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.answers.clear()
    put(mirror, 1)
    mirror.close(0.01)
    tracker.answers.set()
    assert tracker.took.acquire(timeout=HANG_SECONDS)
    put(mirror, 2)
    mirror.close(HANG_SECONDS)
    assert [step for step, _, _ in tracker.sent] == [1, 2]
    assert len(warnings(caplog)) == 1


def hang(mirror: Mirror, tracker: FakeTracker) -> None:
    """Makes a tracker hang with the value of step 0 on its way."""
    tracker.answers.clear()
    put(mirror, 0)
    assert tracker.asked.wait(HANG_SECONDS)


def test_a_full_queue_drops_histograms_before_scalars(
    tracker: FakeTracker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 10_000)
    mirror = Mirror(tracker, Isolation("warn"))
    hang(mirror, tracker)
    for step in range(1, 20):
        mirror.put(Value("run", step, "weight", histogram()))
        put(mirror, step)
    assert [text for text in warnings(caplog) if "oldest are dropped" in text] == warnings(caplog)
    assert len(warnings(caplog)) == 1
    tracker.answers.set()
    mirror.close(HANG_SECONDS)
    steps = {tag: [s for s, t, _ in tracker.sent if t == tag] for tag in ("loss", "weight")}
    assert steps["loss"] == list(range(20))
    assert steps["weight"] == [19]  # The latest ones are kept.
    assert "18 values are missing in fake: 18 were dropped" in warnings(caplog)[1]
    mirror.close(HANG_SECONDS)
    assert len(warnings(caplog)) == 2  # The same number is not logged again.


def test_a_tracker_that_hangs_takes_limited_memory(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 2**20)
    mirror = Mirror(tracker, Isolation("warn"))
    hang(mirror, tracker)
    tracemalloc.start()
    try:
        for step in range(2000):
            mirror.put(Value("run", 1000 + step, f"block{step}", histogram(1024)))
            mirror.put(Value("run", 1000 + step, f"loss{step}", step / 7))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        tracker.answers.set()
        mirror.close(HANG_SECONDS)  # Its thread takes memory too, that of a later test.
    # 32 MB were put.
    assert taken < 1.2 * 2**20


@pytest.mark.parametrize("shown", [0.5, histogram(8), histogram(64), histogram(1024)])
def test_the_size_of_a_value_is_its_memory(tracker: FakeTracker, shown: float | Histogram) -> None:
    mirror = Mirror(tracker, Isolation("warn"))
    hang(mirror, tracker)
    tracemalloc.start()
    try:
        for step in range(1000):
            value = copy.deepcopy(shown) if isinstance(shown, Histogram) else step / 7
            mirror.put(Value("run", 1000 + step, f"parameters/block{step}", value))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        tracker.answers.set()
        mirror.close(HANG_SECONDS)  # Its thread takes memory too, that of a later test.
    counted = size_of(Value("run", 1, "parameters/block100", shown))
    assert 0.8 < taken / 1000 / counted < 1.2


def test_an_error_warns_once_and_later_values_arrive(
    mirror: Mirror, tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        tracker.error = OSError("no route to host")
        put(mirror, step)
        mirror.close(HANG_SECONDS)
    put(mirror, 3)
    mirror.close(HANG_SECONDS)
    assert [step for step, _, _ in tracker.sent] == [3]
    errors = [text for text in warnings(caplog) if "mirror values to fake: OSError" in text]
    assert len(errors) == 1 and "no route to host" in errors[0]


def test_values_that_met_errors_are_counted_seldom(
    mirror: Mirror, tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    for step in range(10):
        tracker.error = OSError("no route to host")
        put(mirror, step)
        mirror.close(HANG_SECONDS)
    counted = re.findall(r"(\d+) values are missing in fake: \1 met an error", caplog.text)
    assert counted == ["1", "2", "4", "8"]


def test_an_error_is_raised_in_the_training_if_asked_for(tracker: FakeTracker) -> None:
    mirror = Mirror(tracker, Isolation("raise"))
    tracker.error = OSError("no route to host")
    put(mirror, 1)
    with pytest.raises(OSError, match="no route to host"):
        mirror.close(HANG_SECONDS)
    mirror.close(HANG_SECONDS)  # It is raised once.


def test_no_thread_is_left_when_all_is_sent(mirror: Mirror) -> None:
    put(mirror, 1)
    thread = mirror._thread
    assert thread is not None
    assert thread.daemon  # One that hangs does not keep the process from ending.
    mirror.close(HANG_SECONDS)
    thread.join(HANG_SECONDS)
    assert mirror._thread is None


def test_a_copy_sends_what_it_is_given(mirror: Mirror, tracker: FakeTracker) -> None:
    tracker.answers.clear()
    put(mirror, 1)
    copied = copy.deepcopy(mirror)
    put(copied, 2)
    tracker.answers.set()
    for each in (copied, mirror):
        each.close(HANG_SECONDS)
    assert sorted(step for step, _, _ in tracker.sent) == [1, 2]


def test_a_copy_in_another_process_sends_nothing(
    mirror: Mirror, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "this_process", lambda: (1, "another"))
    copied = copy.deepcopy(mirror)
    for each in (mirror, copied):  # After a fork, and after pickling.
        put(each, 1)
        each.close(HANG_SECONDS)
    assert tracker.rows == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced(mirror: Mirror, tracker: FakeTracker) -> None:
    tracker.error = SystemExit()  # type: ignore[assignment]
    put(mirror, 1)
    thread = mirror._thread
    assert thread is not None
    thread.join(HANG_SECONDS)
    put(mirror, 2)
    mirror.close(HANG_SECONDS)
    assert [step for step, _, _ in tracker.sent] == [2]
