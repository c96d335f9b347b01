"""The waiting policy, on a clock that the tests set."""

from pathlib import Path

import pytest

from tbtrainer.event_file import waiting
from tbtrainer.event_file.waiting import CHECKPOINT_SECONDS, LOG_SECONDS, WaitingPolicy


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def append(policy: WaitingPolicy, clock: Clock, seconds: float, succeeded: bool = True) -> None:
    policy.begin_call()
    clock.now += seconds
    policy.end_append(succeeded)


def test_three_slow_writes_end_waiting_and_one_quick_resumes_it(clock: Clock) -> None:
    policy = WaitingPolicy(0.8, 0.0)
    for _ in range(2):
        append(policy, clock, 0.1)
    assert policy.log_seconds() == LOG_SECONDS
    append(policy, clock, 0.1)
    assert policy.log_seconds() == policy.room_seconds() == 0
    append(policy, clock, 0.001)
    assert policy.log_seconds() == LOG_SECONDS
    assert policy.room_seconds() == CHECKPOINT_SECONDS


def test_a_call_hangs_only_while_it_lasts(clock: Clock) -> None:
    policy = WaitingPolicy(0.8, 0.0)
    assert not policy.is_hung
    policy.begin_call()
    assert not policy.is_hung
    clock.now += 0.8
    assert policy.is_hung
    policy.end_call()
    assert not policy.is_hung
    assert policy.seconds_until_hung() == float("inf")


def test_after_a_timeout_a_written_record_resumes_waiting(clock: Clock) -> None:
    policy = WaitingPolicy(0.8, 0.0)
    policy.note_timeout()
    assert policy.log_seconds() == 0
    append(policy, clock, 0.0, succeeded=False)
    assert policy.log_seconds() == 0
    append(policy, clock, 0.0)
    assert policy.log_seconds() == LOG_SECONDS


def test_records_for_a_store_are_collected_and_not_waited_for(clock: Clock) -> None:
    policy = WaitingPolicy(10.0, 60.0)
    assert policy.log_seconds() == 0
    assert policy.seconds_until_append() == 0
    append(policy, clock, 1.0)
    assert policy.seconds_until_append() == 60
    clock.now += 61
    assert policy.seconds_until_append() == 0


def test_the_documentation_has_the_limits_of_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text()
    rows = {
        "a log call": waiting.LOG_SECONDS,
        "a checkpoint": waiting.CHECKPOINT_SECONDS,
        "the end of a run, of an evaluation, of the process": waiting.CLOSE_SECONDS,
        "the handler of SIGTERM": waiting.SIGTERM_SECONDS,
    }
    for who, seconds in rows.items():
        assert f"| {who} | {seconds:g} s" in page
    assert f"A call of the disk that has lasted {waiting.HUNG_SECONDS:g} s counts as hung" in page
    assert f"For an object store the limit is {waiting.REMOTE_HUNG_SECONDS:g} s" in page
