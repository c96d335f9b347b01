"""Keeps errors inside the telemetry from reaching the training."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)


class Isolation:
    """Turns errors of the telemetry into one warning per cause, or raises them.

    The warning has the error's text, and a debug message its traceback; both without secrets.

    Args:
        action: `"warn"` or `"raise"`, the value of `telemetry_errors`.
    """

    def __init__(self, action: str) -> None:
        self._raises = action == "raise"
        self._reported: set[tuple[str, type[BaseException], str]] = set()

    @contextmanager
    def guard(self, place: str) -> Iterator[None]:
        """Runs a block whose errors must not end the training.

        `KeyboardInterrupt` and `SystemExit` always pass.

        Args:
            place: What the block does, as a phrase that completes "tbtrainer could not …".
        """
        try:
            yield
        except Exception as error:
            self.report(place, error)

    def report(self, place: str, error: Exception) -> None:
        """Logs an error once per place, type and source line, or raises it again."""
        if self._raises:
            raise error
        cause = (place, type(error), _source_of(error))
        if cause in self._reported:
            return
        self._reported.add(cause)
        logger.warning(
            "tbtrainer could not %s: %s: %s (at %s). Training continues. Further errors of this "
            "kind are not logged. With telemetry_errors='raise' the error would end the training.",
            redacted_text(place),
            type(error).__name__,
            redacted_text(str(error)),
            redacted_text(_source_of(error)),
        )
        # Not `exc_info=error`: the formatter would write the error's text as it is.
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", redacted_text("".join(traceback.format_exception(error))))


def _source_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
