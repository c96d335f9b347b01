"""Flushes the run on SIGTERM, before the previous handler of SIGTERM is called."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tbtrainer.event_file.waiting import SIGTERM_SECONDS


def _nothing() -> None:
    """Takes the place of the functions of a training that is over, and of all they refer to."""


@contextmanager
def flushed_on_sigterm(
    flush: Callable[[], None], ending: Callable[[], None] = _nothing
) -> Iterator[None]:
    """Installs a handler of SIGTERM that calls `flush`, and then acts as SIGTERM did before.

    If there was a handler, it is called. If SIGTERM had its default action, the process ends. If
    SIGTERM was ignored, it stays ignored. Outside the main thread, where Python does not allow
    signal handlers, no handler is installed.

    Both functions are called in a separate thread, because the main thread may hold a lock that
    they need when the signal arrives. The handler waits `SIGTERM_SECONDS` for them at most.

    Args:
        flush: Called at each signal.
        ending: Called before `flush` if the process ends by the signal. It is not called if there
            was a handler, which may let the process continue.
    """
    previous = signal.getsignal(signal.SIGTERM)
    # `None` means a handler that was not installed from Python. Python cannot restore it.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    flushing = _FlushingThread(flush, ending)

    def handle(number: int, frame: FrameType | None) -> None:
        flushing.flush(SIGTERM_SECONDS, is_ending=previous == signal.SIG_DFL)
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, previous)
        flushing.close()


class _FlushingThread:
    """A thread that waits for requests to flush.

    It is started before the training, because when the signal arrives the process may have reached
    its limit of threads. If the thread cannot be started, `flush` does nothing. Requests are passed
    through a `SimpleQueue`, the only queue that is safe in a signal handler.

    Args:
        flush: The function that a request calls.
        ending: The function that the last request calls before it.
    """

    def __init__(self, flush: Callable[[], None], ending: Callable[[], None]) -> None:
        self._flush = flush
        self._ending = ending
        self._process = os.getpid()
        # `None` ends the thread.
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="tbtrainer-sigterm", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def flush(self, seconds: float, is_ending: bool) -> None:
        """Requests a flush and waits for it, at most `seconds`. Never raises."""
        # A forked child, such as a worker of a data loader, does not have the thread.
        if self._thread is None or os.getpid() != self._process:
            return
        request = _Request(is_ending)
        self._requests.put(request)
        with suppress(queue.Empty):
            request.done.get(timeout=seconds)

    def close(self) -> None:
        """Ends the thread. A handler that a user chained to this one then returns at once."""
        thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._process:
            self._requests.put(None)
            # A thread that is still flushing may end later. It is a daemon, so it delays no exit.
            thread.join(SIGTERM_SECONDS)
        self._flush = self._ending = _nothing

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            if request.is_ending:
                with suppress(Exception):
                    self._ending()
            with suppress(Exception):
                self._flush()
            request.done.put(None)


class _Request:
    """A request to flush.

    Attributes:
        is_ending: Whether the process ends after it.
        done: The thread puts `None` into it when it has flushed.
    """

    def __init__(self, is_ending: bool) -> None:
        self.is_ending = is_ending
        self.done: queue.SimpleQueue[None] = queue.SimpleQueue()
