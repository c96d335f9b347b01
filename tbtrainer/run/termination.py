"""On SIGTERM the run is flushed first; then what SIGTERM did before happens."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tbtrainer.event_file.waiting import SIGTERM_SECONDS


@contextmanager
def flushed_on_sigterm(flush: Callable[[], None]) -> Iterator[None]:
    """Calls `flush` when SIGTERM comes, and then does what SIGTERM did before.

    A handler that was there is called, the default ends the process, an ignored signal stays
    ignored. Outside the main thread, where Python allows no handlers, nothing is changed.

    Args:
        flush: Called in a thread of its own, because the main thread may hold a lock that `flush`
            needs when the signal comes. It is waited for `SIGTERM_SECONDS` at most.
    """
    previous = signal.getsignal(signal.SIGTERM)
    # `None`: a handler that was not set from Python, which Python could not put back.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    flushing = _FlushingThread(flush)

    def handle(number: int, frame: FrameType | None) -> None:
        flushing.flush(SIGTERM_SECONDS)
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

    It is started before training, because at the time of the signal the process may be at its limit
    of threads. If it cannot be started at all, `flush` does nothing. Requests are passed through
    `SimpleQueue`, the only queue that a signal handler may use.

    Args:
        flush: What a request calls.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._process = os.getpid()
        # A request is the queue on which its end is announced; `None` ends the thread.
        self._requests: queue.SimpleQueue[queue.SimpleQueue[None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="tbtrainer-sigterm", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def flush(self, seconds: float) -> None:
        """Flushes, waiting at most `seconds`. Never raises."""
        # A forked child, such as a worker of a data loader, has no such thread.
        if self._thread is None or os.getpid() != self._process:
            return
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._requests.put(done)
        with suppress(queue.Empty):
            done.get(timeout=seconds)

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None and os.getpid() == self._process:
            self._requests.put(None)
            # One that still flushes ends later: it is a daemon.
            self._thread.join(SIGTERM_SECONDS)

    def _run(self) -> None:
        while (done := self._requests.get()) is not None:
            with suppress(Exception):
                self._flush()
            done.put(None)
