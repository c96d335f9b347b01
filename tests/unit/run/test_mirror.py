"""A mirror sends each value once. Faults and pace of its tracker do not reach the caller."""

import logging
import pickle

import pytest

from tbtrainer.isolation import Isolation
from tbtrainer.run import mirror as module
from tbtrainer.run.mirror import MOST_IN_ROW, Mirror, Value, rows_of
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


def test_a_row_has_a_limited_number_of_values() -> None:
    rows = rows_of(Value("run", 1, str(number), 0.0) for number in range(2 * MOST_IN_ROW + 1))
    assert [len(row.values) for row in rows] == [MOST_IN_ROW, MOST_IN_ROW, 1]


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


def test_values_that_were_not_sent_are_named_once(
    mirror: Mirror, tracker: FakeTracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.answers.clear()
    put(mirror, 1)
    mirror.close(0.01)
    mirror.close(HANG_SECONDS)  # Does not wait for a tracker that hangs already.
    assert len(warnings(caplog)) == 1
    assert "have not been sent to fake" in warnings(caplog)[0]
    tracker.answers.set()


def test_a_full_queue_drops_the_oldest_with_one_warning(
    mirror: Mirror,
    tracker: FakeTracker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    tracker.answers.clear()
    put(mirror, 0)
    assert tracker.asked.wait(HANG_SECONDS)  # Step 0 is on its way, and waits no more.
    put(mirror, *range(1, 6))
    tracker.answers.set()
    mirror.close(HANG_SECONDS)
    assert [step for step, _, _ in tracker.sent] == [0, 3, 4, 5]
    assert len(warnings(caplog)) == 1


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
    assert len(warnings(caplog)) == 1
    assert "mirror values to fake: OSError: no route to host" in warnings(caplog)[0]


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


def test_a_copy_in_another_process_sends_nothing(mirror: Mirror, tracker: FakeTracker) -> None:
    copy = pickle.loads(pickle.dumps(mirror))
    put(copy, 1)
    copy.close(HANG_SECONDS)
    assert tracker.rows == []
