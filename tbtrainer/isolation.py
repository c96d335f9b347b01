"""What keeps an error inside the telemetry from reaching the training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tbtrainer.redaction import redacted_text

logger = logging.getLogger(__name__)


class Isolation:
    """Turns errors of the telemetry into one warning per cause, or lets them through.

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
        """Says an error once per place, type and source line, or raises it again."""
        if self._raises:
            raise error
        cause = (place, type(error), _source_of(error))
        if cause in self._reported:
            return
        self._reported.add(cause)
        logger.warning(
            "tbtrainer could not %s: %s: %s (at %s). The training goes on; this is said once. "
            "With telemetry_errors='raise' it would have ended the training.",
            place,
            type(error).__name__,
            redacted_text(str(error)),
            _source_of(error),
        )


def _source_of(error: BaseException) -> str:
    traceback = error.__traceback__
    if traceback is None:
        return "an unknown line"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
