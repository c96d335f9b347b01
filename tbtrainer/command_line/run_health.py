"""What a run says about its health: its reports, its counts, and values that are not finite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbtrainer import tags
from tbtrainer.command_line.curves import Curve
from tbtrainer.command_line.terminal_text import shown_tag, shown_text

# The most characters of a report that are shown.
_LONGEST_REPORT = 500
# Counts that are 0 in a healthy run. Skipped steps are not among them: a few are normal.
_COUNTS = (
    (tags.NONFINITE_LOSSES, "steps whose loss was not finite"),
    (tags.NONFINITE_GRADIENTS, "steps whose gradients were not finite"),
    (tags.NONFINITE_EVAL_BATCHES, "evaluation batches whose loss was not finite"),
    (tags.NONFINITE_EVAL_BATCHES_OF, "evaluation batches whose loss was not finite"),
)


@dataclass(frozen=True)
class RunHealth:
    """The health of a run.

    Attributes:
        is_recorded: Whether the run counts what is not finite, as those of tbtrainer do.
        problems: What is bad, one sentence each, printable and without secrets; empty if nothing is
            known to be.
    """

    is_recorded: bool
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """`"good"`, `"bad"`, or `"unknown"` for a run that does not count."""
        return "bad" if self.problems else "good" if self.is_recorded else "unknown"


def health_of(curves: Mapping[str, Curve], reports: Sequence[Mapping[str, Any]]) -> RunHealth:
    """Returns the health of a run.

    Args:
        curves: Of the run, by tag.
        reports: The lines of its `health.jsonl`, by time.
    """
    counted = {tag: what for tag in curves for known, what in _COUNTS if known.matches(tag)}
    totals: dict[str, int] = {}
    for tag, what in counted.items():
        totals[what] = totals.get(what, 0) + round(curves[tag].total)
    problems = [f"{total:,} {what}" for what, total in totals.items() if total]
    problems += [
        f"{shown_tag(tag)}: {curve.nonfinite:,} of {curve.count:,} values are NaN or infinite"
        for tag, curve in curves.items()
        if curve.nonfinite and tag not in counted
    ]
    problems += [_report(line) for line in reports]
    return RunHealth(bool(counted or reports), tuple(problems))


def _report(line: Mapping[str, Any]) -> str:
    message = shown_text(str(line.get("message", "")), _LONGEST_REPORT)
    return f"report at step {line.get('step')}: {message}"
