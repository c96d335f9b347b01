"""On SIGTERM the run is flushed, whatever the main thread does, and the process ends as before."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tbtrainer.run import flushed_on_sigterm
from tbtrainer.run.termination import _FlushingThread
from tests.events import steps_in
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[3]

# Ends itself by SIGTERM while records wait; a test has the lines `{before}`, `{within}`, `{after}`.
PROGRAM = """
import os, signal, sys, threading
from tbtrainer.run import RunWriter, flushed_on_sigterm

def refuse(thread):
    raise RuntimeError("can't start new thread")

writer = RunWriter(sys.argv[1])
writer.add_scalar("value", 0, 0)
{before}
with flushed_on_sigterm(lambda: writer.flush(0.8)):
    {within}
    for step in range(1, 1000):
        writer.add_scalar("value", step, step)
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        {after}
"""


def ended(
    run: Path, before: str = "", within: str = "", after: str = "signal.pause()"
) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(before=before, within=within, after=after)
    command = [sys.executable, "-c", program, str(run)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, cwd=ROOT)


NO_THREADS = "threading.Thread.start = refuse"


def test_sigterm_without_a_free_thread_flushes_and_ends_the_process(tmp_path: Path) -> None:
    process = ended(tmp_path, within=NO_THREADS)
    assert process.returncode == -signal.SIGTERM, process.stderr
    assert process.stderr == ""
    assert steps_in(tmp_path) == list(range(1000))


def test_sigterm_ends_a_process_that_never_had_a_free_thread(tmp_path: Path) -> None:
    process = ended(tmp_path, before=NO_THREADS)
    assert process.returncode == -signal.SIGTERM, process.stderr
    assert process.stderr == ""


def test_sigterm_within_a_call_of_the_writer_ends_the_process(tmp_path: Path) -> None:
    # The main thread holds the lock that the flush needs.
    within = "writer._events._delivery._changed.acquire()"
    process = ended(tmp_path, within=within)
    assert process.returncode == -signal.SIGTERM, process.stderr


@pytest.mark.parametrize("flushes", [1, 3])
def test_each_signal_flushes_and_calls_the_former_handler(flushes: int) -> None:
    flushed, handled = [], []
    former = signal.signal(signal.SIGTERM, lambda *_: handled.append(len(flushed)))
    try:
        with flushed_on_sigterm(lambda: flushed.append(threading.current_thread())):
            for _ in range(flushes):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert handled == list(range(1, flushes + 1))
    assert threading.main_thread() not in flushed


@pytest.mark.parametrize("handler", ["signal.SIG_DFL", "lambda *_: os._exit(0)", "signal.SIG_IGN"])
def test_only_a_signal_that_ends_the_process_is_its_end(tmp_path: Path, handler: str) -> None:
    before = f"""
signal.signal(signal.SIGTERM, {handler})
def ending():
    writer.add_scalar("ended", 1, 0)
flushed = flushed_on_sigterm
def flushed_on_sigterm(flush):
    return flushed(flush, ending)
"""
    ended(tmp_path, before=before, after="break")
    assert (steps_in(tmp_path, "ended") == [0]) == (handler == "signal.SIG_DFL")


def test_an_error_of_the_ending_suppresses_no_flush() -> None:
    flushed: list[bool] = []
    thread = _FlushingThread(lambda: flushed.append(True), lambda: 1 / 0)  # type: ignore[arg-type]
    thread.flush(HANG_SECONDS, is_ending=True)
    thread.close()
    assert flushed == [True]


def test_an_error_of_the_flush_suppresses_no_signal_handler() -> None:
    handled: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        with flushed_on_sigterm(lambda: 1 / 0):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert handled == [signal.SIGTERM] * 2


def test_no_thread_and_no_handler_stays_behind() -> None:
    threads, former = set(threading.enumerate()), signal.getsignal(signal.SIGTERM)
    with flushed_on_sigterm(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not former
    assert set(threading.enumerate()) == threads
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    # The child has the handler and not the thread: the default must end it.
    with flushed_on_sigterm(lambda: None):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
