"""The share of the time between two logging steps that was spent in tbtrainer."""

import pytest

from tbtrainer import tags
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.overhead_fraction import OverheadFraction
from tbtrainer.records import Scalar


def test_each_logging_step_shows_the_share_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    observer = OverheadFraction(clock)
    shown = []
    for training_seconds, telemetry_seconds in ((3.0, 1.0), (4.0, 0.0), (1.0, 1.0)):
        now[0] += training_seconds
        with clock.measured():
            now[0] += telemetry_seconds
        shown += observer.logging_step(1)
    assert shown == [Scalar(tags.OVERHEAD_FRACTION.name, share) for share in (0.25, 0.0, 0.5)]
