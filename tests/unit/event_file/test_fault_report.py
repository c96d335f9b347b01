"""Warnings about a fault of the disk."""

import logging

import pytest

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.fallback import FallbackLines
from tbtrainer.event_file.fault_report import FaultReport

FAULTS = [
    OSError(20, "Not a directory", "/f/password=MARKER7f3a9c/run"),
    RuntimeError("PUT https://host/o?X-Amz-Signature=MARKER7f3a9c: denied"),
    RuntimeError("user:MARKER7f3a9c@host does not answer"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault)[:20])
def test_no_warning_of_a_fault_has_a_secret(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    report = FaultReport("/f/run", 2**20)
    with caplog.at_level(logging.DEBUG):
        report.note_append(fault, Counters())
        elsewhere = FallbackLines("run", "health.jsonl")
        elsewhere.path = "/f/password=MARKER7f3a9c/run"
        report.note_saved_elsewhere(1, 2, elsewhere, fault)
    assert len(caplog.records) == 3
    assert "MARKER7f3a9c" not in caplog.text
