"""An error inside the telemetry is said once, or raised when asked for."""

import logging

import pytest

from tbtrainer.isolation import Isolation


def fail(kind: type[Exception] = RuntimeError) -> None:
    raise kind("broken")


def test_an_error_is_warned_of_once_per_cause_with_its_place(caplog):
    isolation = Isolation("warn")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with isolation.guard("draw a panel"):
                fail()
        with isolation.guard("draw a panel"):
            fail(OSError)
    assert len(caplog.records) == 2
    assert "could not draw a panel: RuntimeError: broken" in caplog.text
    assert __file__ in caplog.text


def test_an_error_is_raised_when_asked_for():
    with pytest.raises(RuntimeError, match="broken"), Isolation("raise").guard("draw a panel"):
        fail()


def test_an_interrupt_always_passes():
    with pytest.raises(KeyboardInterrupt), Isolation("warn").guard("draw a panel"):
        raise KeyboardInterrupt
