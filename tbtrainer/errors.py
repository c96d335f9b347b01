"""The error that tbtrainer raises on purpose."""

from collections.abc import Mapping
from typing import Any


class NonFiniteError(FloatingPointError):
    """Raised by `train` on every rank with `nonfinite_action="raise"`.

    The weights are those after the last good step: the step with the NaN or the infinity was not
    taken.

    Args:
        report: What was not finite, as in a line of `health.jsonl`.

    Attributes:
        report: The argument of this name. It has the keys `message`, `bad_step`, `cause` and more;
            only `message` if world rank zero could not make a report.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = dict(report)
        # The only argument, so that the error can be copied to another process.
        super().__init__(self.report)

    def __str__(self) -> str:
        return str(self.report.get("message", "A loss or a gradient was not finite."))
