"""Keeps errors in the telemetry from ending the training."""

import logging
import signal
import traceback

from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)


class Isolation:
    """Turns errors of the telemetry into one warning per cause, or raises them.

    The warning contains the text of the error. A debug message contains the traceback. Secrets in
    both are hidden.

    Args:
        action: `"warn"` or `"raise"`, the value of `telemetry_errors`.
    """

    def __init__(self, action: str) -> None:
        self._raises = action == "raise"
        self._reported: set[tuple[str, type[BaseException], str]] = set()

    def guard(self, place: str) -> "Guard":
        """Reports errors of the block of a `with`, so that they do not end the training.

        `KeyboardInterrupt` and `SystemExit` are always raised.

        Args:
            place: What the block does: a phrase that completes "tbtrainer could not …".
        """
        return Guard(self, place)

    def report(self, place: str, error: Exception) -> None:
        """Logs an error, once per place, type and source line. With `"raise"`, raises it.

        An error of a signal handler is always raised: it is not the telemetry's, such as that of a
        time limit, or of a data loader whose worker died.
        """
        if self._raises or _is_of_signal_handler(error):
            raise error
        cause = (place, type(error), _source_of(error))
        if cause in self._reported:
            return
        self._reported.add(cause)
        logger.warning(
            "tbtrainer could not %s: %s: %s (at %s). Training continues. Further errors of this "
            "kind are not logged. To let such errors end the training, set "
            "telemetry_errors='raise'.",
            redacted_text(place),
            type(error).__name__,
            redacted_text(str(error)),
            redacted_text(_source_of(error)),
        )
        # Not `exc_info=error`: the formatter of the log would write the error's text unredacted.
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", redacted_text("".join(traceback.format_exception(error))))


class Guard:
    """Reports the errors of a block; see `Isolation.guard`.

    Args:
        isolation: What happens to an error.
        place: What the block does.
    """

    # Not a generator, which would cost several times as much at each step.
    def __init__(self, isolation: Isolation, place: str) -> None:
        self._isolation = isolation
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._isolation.report(self._place, error)
        return True


def _source_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"


def _is_of_signal_handler(error: BaseException) -> bool:
    """Whether an error was raised in a signal handler, which runs wherever the program is."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.Signals}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code in handlers for frame in frames)
