"""An error inside the telemetry is logged once, or raised when asked for."""

import logging
import signal

import pytest

from tbtrainer.isolation import Isolation


def fail(kind: type[Exception] = RuntimeError) -> None:
    raise kind("broken")


def test_an_error_is_warned_of_once_per_cause(caplog: pytest.LogCaptureFixture) -> None:
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


def test_the_warning_says_that_training_continues(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Isolation("warn").guard("draw a panel"):
        fail()
    assert "Training continues. Further errors of this kind are not logged." in caplog.text


def test_the_traceback_is_in_a_debug_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Isolation("warn").guard("draw a panel"):
        fail()
    (debug,) = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert "Traceback (most recent call last)" in debug.getMessage()
    assert 'raise kind("broken")' in debug.getMessage()


def test_neither_warning_nor_traceback_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Isolation("warn").guard("read password=MARKER7f3a9c"):
        try:
            raise OSError(20, "Not a directory", "/f/password=MARKER7f3a9c/run")
        except OSError as error:
            raise RuntimeError("https://user:MARKER7f3a9c@host?sig=MARKER7f3a9c") from error
    assert len(caplog.records) == 2
    # The lines of source that a traceback shows are those of this file.
    texts = [caplog.records[0].getMessage(), *caplog.records[1].getMessage().splitlines()]
    assert [text for text in texts if "MARKER7f3a9c" in text and "raise " not in text] == []


def test_an_error_is_raised_when_asked_for() -> None:
    with pytest.raises(RuntimeError, match="broken"), Isolation("raise").guard("draw a panel"):
        fail()


def test_an_interrupt_always_passes() -> None:
    with pytest.raises(KeyboardInterrupt), Isolation("warn").guard("draw a panel"):
        raise KeyboardInterrupt


def test_an_error_of_a_signal_handler_is_raised() -> None:
    def too_late(number: int, frame: object) -> None:
        raise TimeoutError("the time is over")

    previous = signal.signal(signal.SIGUSR1, too_late)
    try:
        with pytest.raises(TimeoutError), Isolation("warn").guard("close the run"):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
