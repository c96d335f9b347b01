"""`tbtrainer show`: what a run is, how it went, and where it stands."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tbtrainer.command_line.curves import Curve
from tbtrainer.command_line.exit_codes import FINE
from tbtrainer.command_line.metric_direction import direction_of
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.progress import progress_bar
from tbtrainer.command_line.run_path import opened_run, runs_at
from tbtrainer.command_line.run_summary import RunSummary, summary_of
from tbtrainer.command_line.show_text import MOST_CURVES, best_of, shown_run, shown_runs
from tbtrainer.command_line.tag_choice import add_tags_argument, matching, worth_showing
from tbtrainer.redaction import redacted_name, redacted_text, shown

DESCRIPTION = """\
Shows a run on one page: whether it is finished, failed or running, its model and the arguments that
differ from the defaults, its health, what takes more time than it should, and the last and the best
value of each curve. If there are several runs below RUN, they are listed."""
EPILOG = """\
examples:
  tbtrainer show out/runs                 the run below, or a list of them
  tbtrainer show RUN --tags '^eval/'      only these curves
  tbtrainer show RUN --json               for scripts

The exit code is 0 also if the run has failed: look at "status" and "health" of --json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="a run directory, or one with runs below it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--all", action="store_true", help="all curves, also bookkeeping and details of tbtrainer"
    )
    add_tags_argument(parser, "only these curves")
    parser.add_argument(
        "--include-rewound",
        action="store_true",
        help="also values that a resumed training has replaced",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Shows a run, or lists those below a directory."""
    runs = runs_at(options.run)
    if len(runs) > 1:
        summaries = [_summary(path, options) for path in runs]
        if options.json:
            output.json({"runs": [_listed(summary) for summary in summaries]})
        else:
            output.lines(shown_runs(summaries, output.blocks, time.time()))
        return FINE
    summary = _summary(runs[0], options)
    names = matching(summary.curves, options.tags)
    if options.json:
        output.json(json_of(summary, names))
    else:
        if not options.all and options.tags is None:
            names = worth_showing(names)[:MOST_CURVES]
        output.lines(shown_run(summary, names, output.blocks, time.time()))
    return FINE


def json_of(summary: RunSummary, names: Sequence[str]) -> dict[str, Any]:
    """Returns what is known of a run, for scripts.

    Args:
        summary: Of the run.
        names: The tags of the curves.
    """
    facts = summary.facts
    changed = facts.changed_arguments
    return {
        **_listed(summary),
        "model": dict(facts.model),
        "changed_arguments": None
        if changed is None
        else {name: {"value": value, "default": was} for name, (value, was) in changed.items()},
        "environment": dict(facts.environment),
        "health": {"name": summary.health.name, "problems": list(summary.health.problems)},
        "throughput_verdict": facts.verdict,
        "sessions": [asdict(session) for session in summary.sessions],
        "files": [asdict(file) for file in summary.files],
        "tags_by_kind": dict(summary.kinds),
        "curves": {redacted_name(tag): curve_json(tag, summary.curves[tag]) for tag in names},
    }


def curve_json(tag: str, curve: Curve) -> dict[str, Any]:
    """Returns what is known of a curve, for scripts."""
    best = best_of(tag, curve)
    fields = ("count", "nonfinite", "first", "first_step", "last", "last_step")
    extremes = ("minimum", "minimum_step", "maximum", "maximum_step", "mean")
    return {
        **{name: getattr(curve, name) for name in (*fields, *extremes)},
        "better": direction_of(tag),
        "best": best[0] if best else None,
        "best_step": best[1] if best else None,
    }


def _listed(summary: RunSummary) -> dict[str, Any]:
    return {
        "run": redacted_text(summary.path),
        "status": asdict(summary.status),
        "last_step": summary.last_step,
    }


def _summary(path: str, options: argparse.Namespace) -> RunSummary:
    with progress_bar(f"reading {shown(path)}") as advanced:
        opened = opened_run(path, include_rewound=options.include_rewound, advanced=advanced)
        return summary_of(opened, path)
