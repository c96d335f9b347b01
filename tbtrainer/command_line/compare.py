"""`tbtrainer compare`: what differs between runs, and whether a condition holds."""

import argparse
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbtrainer.command_line.columns import columns
from tbtrainer.command_line.condition import Condition, Quantity
from tbtrainer.command_line.curves import Curve
from tbtrainer.command_line.exit_codes import BAD, FINE, UsageError
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.progress import progress_bar
from tbtrainer.command_line.run_path import opened_run
from tbtrainer.command_line.run_summary import RunSummary, summary_of
from tbtrainer.command_line.show import curve_json
from tbtrainer.command_line.show_text import best_of
from tbtrainer.command_line.tag_choice import add_tags_argument, matching, worth_showing
from tbtrainer.command_line.terminal_text import number, printable, shown_tag
from tbtrainer.redaction import redacted_name, redacted_text, shown

DESCRIPTION = """\
Shows which arguments differ between runs, and their metrics side by side. The first run is the
baseline.

With --fail-if the exit code is 1 if the condition holds for one of the other runs. It is also 1 if
the condition cannot be decided because a value is NaN or a run does not have the curve, and if a
run has failed, so that a run that broke does not pass. With a single run, the condition is about
that run."""
EPILOG = """\
conditions:
  eval/loss > 1.02 * baseline             last value, against the baseline's
  max(eval/accuracy) < baseline - 0.01    highest, against the baseline's
  eval/loss > 2 or throughput/mfu < 0.3   with and, or, not
  eval/loss > 1.1 * baseline(train/loss)  another curve of the baseline
  "my metric-1" > 3                       other characters: a tag in quotes

first(tag), last(tag), min(tag), max(tag) and mean(tag) say which value; a tag alone is last(tag). A
tag without quotes has only letters, digits, _ . and /. A division has blanks around its sign.

examples:
  tbtrainer compare runs/base runs/new
  tbtrainer compare runs/base runs/new --fail-if 'eval/loss > 1.02 * baseline'"""
# Arguments that always differ: places and names.
_PLACES = frozenset(("output_dir", "logging_dir", "run_name", "hub_model_id"))
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Verdict:
    """Whether a run passes a condition.

    Attributes:
        run: The path of the run, without secrets.
        holds: Whether the condition holds; `None` if that cannot be decided.
        reason: The values, or what is missing.
        has_failed: Whether the run has failed. It then does not pass.
    """

    run: str
    holds: bool | None
    reason: str
    has_failed: bool

    @property
    def passes(self) -> bool:
        """Whether the run passes: the condition does not hold, and the run has not failed."""
        return self.holds is False and not self.has_failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the baseline, and other runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--fail-if", metavar="CONDITION", help="exit code 1 if this holds; see below"
    )
    add_tags_argument(parser, "only these curves are shown")


def run(options: argparse.Namespace, output: Output) -> int:
    """Compares runs. Returns `BAD` if a condition was given and a run does not pass it."""
    condition = Condition.parsed(options.fail_if) if options.fail_if is not None else None
    if len(options.runs) == 1 and (condition is None or condition.uses_baseline):
        raise UsageError("Name at least two runs; the first one is the baseline.")
    summaries = [_summary(path) for path in options.runs]
    verdicts = judged(condition, summaries) if condition is not None else []
    names = list(dict.fromkeys(tag for summary in summaries for tag in summary.curves))
    names = worth_showing(names) if options.tags is None else matching(names, options.tags)
    differing = differing_arguments(summaries)
    if options.json:
        output.json(json_of(summaries, names, differing, condition, verdicts))
    else:
        output.lines(_lines(summaries, names, differing, condition, verdicts))
    return FINE if all(verdict.passes for verdict in verdicts) else BAD


def judged(condition: Condition, summaries: Sequence[RunSummary]) -> list[Verdict]:
    """Returns whether a condition holds, for each run but the baseline.

    Args:
        condition: The condition.
        summaries: Of the runs, the baseline first. A single one is no baseline.

    Raises:
        UsageError: None of the runs has a curve that the condition names.
    """
    known = {tag for summary in summaries for tag in summary.curves}
    for quantity in condition.quantities:
        if quantity.tag not in known:
            raise UsageError(_unknown(quantity.tag, known))
    others = summaries[1:] if len(summaries) > 1 else summaries
    return [_judged(condition, summaries[0], summary) for summary in others]


def differing_arguments(summaries: Sequence[RunSummary]) -> dict[str, list[str]]:
    """Returns the arguments that are not the same in all runs, with the value of each run.

    A value that a run does not say is "-". Runs that say nothing about their arguments are not
    compared. Directories and names, which always differ, are left out. So are arguments that only
    the trainers of some runs have, if those runs leave them at their defaults.
    """
    arguments = [summary.facts.arguments for summary in summaries]
    compared = [values for values in arguments if values]
    changed = {name for summary in summaries for name in summary.facts.changed_arguments or ()}
    names = dict.fromkeys(name for values in arguments for name in values)
    found: dict[str, list[str]] = {}
    for name in names:
        known = [values[name] for values in compared if name in values]
        is_missing = len(known) < len(compared)
        if name not in _PLACES and (len(set(known)) > 1 or (is_missing and name in changed)):
            found[name] = [values.get(name, "-") for values in arguments]
    return found


def json_of(
    summaries: Sequence[RunSummary],
    names: Sequence[str],
    differing: Mapping[str, Sequence[str]],
    condition: Condition | None,
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    """Returns a comparison for scripts."""
    return {
        "runs": [redacted_text(summary.path) for summary in summaries],
        "status": [summary.status.name for summary in summaries],
        "arguments": {name: list(values) for name, values in differing.items()},
        "curves": {
            redacted_name(tag): [
                curve_json(tag, summary.curves[tag]) if tag in summary.curves else None
                for summary in summaries
            ]
            for tag in names
        },
        "condition": condition.source if condition is not None else None,
        "verdicts": [{**vars(verdict), "passes": verdict.passes} for verdict in verdicts],
    }


def _judged(condition: Condition, baseline: RunSummary, summary: RunSummary) -> Verdict:
    def value_of(quantity: Quantity) -> float:
        curves = (baseline if quantity.of_baseline else summary).curves
        curve = curves.get(quantity.tag)
        return math.nan if curve is None else statistic(curve, quantity)

    holds = condition.holds(value_of)
    values = ", ".join(
        f"{_name(quantity)} is {number(value_of(quantity))}"
        if quantity.tag in (baseline if quantity.of_baseline else summary).curves
        else f"{_name(quantity)} does not exist"
        for quantity in condition.quantities
    )
    return Verdict(shown(summary.path), holds, values, summary.status.name == "failed")


def statistic(curve: Curve, quantity: Quantity) -> float:
    """Returns the value of a curve that a condition names."""
    by_name = {
        "last": curve.last,
        "first": curve.first,
        "min": curve.minimum,
        "max": curve.maximum,
        "mean": curve.mean,
    }
    return by_name[quantity.statistic]


def _name(quantity: Quantity) -> str:
    tag = shown_tag(quantity.tag)
    named = tag if quantity.statistic == "last" else f"{quantity.statistic}({tag})"
    return f"baseline({named})" if quantity.of_baseline else named


def _unknown(tag: str, known: set[str]) -> str:
    close = difflib.get_close_matches(tag, known, n=3)
    instead = f" Did you mean {' or '.join(map(shown_tag, close))}?" if close else ""
    return f"--fail-if: no run has a curve {shown_tag(tag)}.{instead}"


def _summary(path: str) -> RunSummary:
    with progress_bar(f"reading {shown(path)}") as advanced:
        return summary_of(opened_run(path, advanced=advanced), path)


# ---- Lines for people ----


def _lines(
    summaries: Sequence[RunSummary],
    names: Sequence[str],
    differing: Mapping[str, Sequence[str]],
    condition: Condition | None,
    verdicts: Sequence[Verdict],
) -> list[str]:
    heads = [chr(ord("A") + index) if index < 26 else str(index) for index in range(len(summaries))]
    lines = [
        f"{head}  {shown(summary.path)}  ({summary.status.name})"
        for head, summary in zip(heads, summaries, strict=True)
    ]
    if len(summaries) > 1:
        lines[0] += "  baseline"
    if differing:
        rows = [[name, *(_cut(value) for value in values)] for name, values in differing.items()]
        lines += ["", *columns([["argument", *heads], *rows])]
    if names:
        rows = [[shown_tag(tag), *_values(tag, summaries)] for tag in names]
        lines += ["", *columns([["last (best)", *heads], *rows])]
    if condition is not None:
        lines += ["", f"fails if {printable(condition.source)}"]
        lines += [f"  {_outcome(verdict)}  {verdict.run}: {verdict.reason}" for verdict in verdicts]
    return lines


def _values(tag: str, summaries: Sequence[RunSummary]) -> list[str]:
    cells = []
    for summary in summaries:
        curve = summary.curves.get(tag)
        best = best_of(tag, curve) if curve is not None else None
        cell = "-" if curve is None else number(curve.last)
        cells.append(f"{cell} ({number(best[0])})" if best else cell)
    return cells


def _outcome(verdict: Verdict) -> str:
    if verdict.holds is None:
        return "FAILS (cannot be decided)"
    if verdict.has_failed and not verdict.holds:
        return "FAILS (the run has failed)"
    return "FAILS" if verdict.holds else "passes"


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
