"""What SIGTERM does while a run is written: it is flushed first, then ends as it would have."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A scheduler gives a job seconds between SIGTERM and SIGKILL; this is the share of the telemetry.
_FLUSH_SECONDS = 2.0


@contextmanager
def flushed_on_sigterm(flush: Callable[[], None]) -> Iterator[None]:
    """Calls `flush` when SIGTERM comes, and then does what SIGTERM did before.

    A handler that was there is called, the default ends the process, an ignored signal stays
    ignored. Outside the main thread, where Python allows no handlers, nothing is changed.

    Args:
        flush: Called in a thread of its own, because the signal may have come while the main
            thread holds a lock that `flush` needs. It is waited for two seconds at the most.
    """
    previous = signal.getsignal(signal.SIGTERM)
    # `None`: a handler that was not set from Python, which Python could not put back.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        flushing = threading.Thread(target=flush, name="tbtrainer-sigterm", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_SECONDS)
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
