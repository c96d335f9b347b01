"""What `tbtrainer show` prints for people."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from tbtrainer import tags
from tbtrainer.command_line.columns import columns
from tbtrainer.command_line.curves import Curve
from tbtrainer.command_line.metric_direction import direction_of
from tbtrainer.command_line.run_summary import RunSummary
from tbtrainer.command_line.sparkline import sparkline
from tbtrainer.command_line.terminal_text import number, shown_tag
from tbtrainer.redaction import shown

_SPARKLINE_WIDTH = 24
# The most curves of a page, and the most rows of the other parts.
MOST_CURVES = 40
_MOST_ROWS = 12
# A longer value of an argument would make all lines of the table as long.
_LONGEST_VALUE = 60
# A moment longer ago is shown as a date.
_RECENT_SECONDS = 30 * 86400
# The facts about a model that are shown after its class; see `run/model`.
_MODEL_FACTS = (
    *("parameters", "trained", "adapters", "dtypes", "devices", "processes"),
    *("sharding", "compiled"),
)


def shown_run(summary: RunSummary, chosen: Sequence[str], blocks: str, now: float) -> list[str]:
    """Returns a run as lines.

    Args:
        summary: Of the run.
        chosen: The tags of the curves to show.
        blocks: The characters of a sparkline.
        now: Seconds since 1970.
    """
    parts: list[tuple[str, list[str]]] = [
        ("status", [f"{summary.status.name}, {summary.status.reason}"]),
        ("training", [_steps(summary)]),
        ("time", [_times(summary, now)] if summary.sessions else []),
        ("model", _model(summary.facts.model)),
        ("arguments", _arguments(summary.facts.changed_arguments)),
        ("health", _health(summary)),
        ("throughput", _throughput(summary)),
        ("files", _files(summary)),
    ]
    lines = [shown(summary.path)]
    for title, rows in parts:
        for index, row in enumerate(rows):
            lines.append(f"  {title if not index else '':<12}{row}")
    table = _curve_table({tag: summary.curves[tag] for tag in chosen}, blocks)
    hidden = len(summary.curves) - len(chosen)
    if hidden > 0:
        table.append(f"{_counted(hidden, 'more curve')}: --all")
    return [*lines, "", *(f"  {line}" for line in table)]


def shown_runs(summaries: Sequence[RunSummary], blocks: str, now: float) -> list[str]:
    """Returns several runs as a table, one line each."""
    rows = [["run", "status", "last step", "last record", "tag", "last", "curve"]]
    for summary in summaries:
        tag = main_curve(summary.curves)
        curve = summary.curves.get(tag) if tag is not None else None
        rows.append(
            [
                shown(summary.path),
                summary.status.name,
                str(summary.last_step) if summary.last_step is not None else "-",
                _ago(_last_time(summary), now),
                shown_tag(tag) if tag is not None else "-",
                number(curve.last) if curve else "-",
                sparkline(curve.pieces(), _SPARKLINE_WIDTH, blocks) if curve else "",
            ]
        )
    return columns(rows, right=(2, 5))


def main_curve(curves: Mapping[str, Curve]) -> str | None:
    """Returns the tag that stands for a run in a list: the loss of the evaluation or training."""
    for wanted in ("eval/loss", "train/loss"):
        if wanted in curves:
            return wanted
    return next((tag for tag in curves if direction_of(tag) == "lower"), next(iter(curves), None))


# ---- The parts of a page ----


def _steps(summary: RunSummary) -> str:
    firsts = [curve.first_step for curve in summary.curves.values()]
    if not firsts:
        return "no curves yet"
    sessions = _counted(len(summary.sessions), "session")
    return f"steps {min(firsts):,} to {summary.last_step:,} in {sessions}"


def _times(summary: RunSummary, now: float) -> str:
    begin = min((s.first_wall_time for s in summary.sessions), default=math.nan)
    end = _last_time(summary)
    return f"{_moment(begin)}, for {_duration(end - begin)}; the last record {_ago(end, now)}"


def _model(facts: Mapping[str, str]) -> list[str]:
    kind = facts.get("class") or facts.get("type") or ""
    name = f" ({facts['name']})" if facts.get("name") else ""
    rest = [f"{fact} {facts[fact]}" for fact in _MODEL_FACTS if facts.get(fact, "no") != "no"]
    return [line for line in (f"{kind}{name}".strip(), ", ".join(rest)) if line]


def _arguments(changed: Mapping[str, tuple[str, str]] | None) -> list[str]:
    if changed is None:
        return []
    if not changed:
        return ["all are the defaults"]
    rows = [
        [name, _cut(value), f"(default {_cut(default)})"]
        for name, (value, default) in changed.items()
    ]
    more = [f"and {len(rows) - _MOST_ROWS} more: --json"] if len(rows) > _MOST_ROWS else []
    return columns(rows[:_MOST_ROWS]) + more


def _health(summary: RunSummary) -> list[str]:
    health = summary.health
    if health.problems:
        return [f"bad: {health.problems[0]}", *health.problems[1:_MOST_ROWS]]
    if health.is_recorded:
        return ["good: no loss and no gradient was NaN or infinite"]
    if not summary.curves:
        return ["unknown: there are no curves"]
    return ["unknown: the run does not count what is NaN or infinite; its curves are finite"]


def _throughput(summary: RunSummary) -> list[str]:
    found = [
        f"{number(summary.curves[tag.name].last)} {tag.unit}"
        for tag in (tags.TOKENS_PER_SECOND, tags.SAMPLES_PER_SECOND)
        if tag.name in summary.curves
    ]
    steps = summary.curves.get(tags.STEP_SECONDS.name)
    if steps is not None:
        found.append(f"{number(steps.last)} s per step")
    verdict = summary.facts.verdict
    if verdict is None and steps is not None:
        verdict = "nothing takes more time than it should"
    return [line for line in (", ".join(found), verdict) if line]


def _files(summary: RunSummary) -> list[str]:
    total = sum(file.bytes for file in summary.files)
    lines = [f"{_counted(len(summary.files), 'event file')}, {_size(total)}"]
    for file in summary.files:
        if file.reason:
            lines.append(
                f"{file.unread_bytes:,} bytes of {shown_tag(file.name)} were not read "
                f"({file.reason}): tbtrainer doctor"
            )
    return lines[: _MOST_ROWS + 1]


def _curve_table(curves: Mapping[str, Curve], blocks: str) -> list[str]:
    if not curves:
        return ["no curves"]
    rows = [["tag", "last", "at step", "best", "at step", "curve"]]
    for tag, curve in list(curves.items())[:MOST_CURVES]:
        best = best_of(tag, curve)
        rows.append(
            [
                shown_tag(tag),
                number(curve.last),
                str(curve.last_step),
                number(best[0]) if best else "",
                str(best[1]) if best else "",
                sparkline(curve.pieces(), _SPARKLINE_WIDTH, blocks),
            ]
        )
    return columns(rows, right=(1, 2, 3, 4))


def best_of(tag: str, curve: Curve) -> tuple[float, int] | None:
    """Returns the best value of a curve and its step; `None` if it is not known what is better."""
    direction = direction_of(tag)
    if direction is None or math.isnan(curve.minimum):
        return None
    if direction == "lower":
        return curve.minimum, curve.minimum_step
    return curve.maximum, curve.maximum_step


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"


# ---- Numbers and times ----


def _last_time(summary: RunSummary) -> float:
    return max((session.last_wall_time for session in summary.sessions), default=math.nan)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # Any program may have written it.
        return "unknown"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _ago(seconds: float, now: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    if now - seconds > _RECENT_SECONDS:
        return f"on {_moment(seconds)[:10]}"
    return f"{_duration(now - seconds)} ago"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
