"""`tbtrainer tail`: what is written to a run, as it comes."""

import argparse
import time
from collections.abc import Callable
from datetime import datetime

from tbtrainer.command_line.exit_codes import BAD, FINE, UsageError
from tbtrainer.command_line.following import Entry, RunFollower
from tbtrainer.command_line.output import Output
from tbtrainer.command_line.run_path import the_run_at
from tbtrainer.command_line.run_status import RunStatus, status_of
from tbtrainer.command_line.tag_choice import add_tags_argument, worth_showing
from tbtrainer.command_line.terminal_text import number, shown_tag, shown_text
from tbtrainer.command_line.writing_process import Presence, writing_process
from tbtrainer.reading import NotARun
from tbtrainer.redaction import redacted_name, redacted_text, shown

DESCRIPTION = """\
Prints the last values of a run, and then new ones as they are written, one line per step. Reports
about NaN and infinities are printed, too.

It ends when the run has ended, as far as that can be known, and otherwise with Ctrl-C."""
EPILOG = """\
examples:
  tbtrainer tail RUN
  tbtrainer tail RUN --tags '^eval/' --lines 0     only what is new
  tbtrainer tail RUN --json --no-follow            the last lines, for scripts

The exit code is 1 if the run has failed, and 0 after Ctrl-C."""
# The most characters of a report that are printed.
_LONGEST_TEXT = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=_count,
        default=10,
        help="how many of the lines so far are printed (default: 10)",
    )
    parser.add_argument("--no-follow", action="store_true", help="print them and end")
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_seconds,
        default=1.0,
        help="how often the files are looked at (default: 1)",
    )
    add_tags_argument(parser, "only these scalars")


def run(options: argparse.Namespace, output: Output) -> int:
    """Follows a run. Returns `BAD` if it is known to have failed."""
    follower = RunFollower(the_run_at(options.run), _choice(options))
    try:
        return _follow(follower, options, output)
    except KeyboardInterrupt:
        return FINE
    except (FileNotFoundError, NotARun):
        raise UsageError(f"The run in {shown(options.run)} was deleted.") from None


def _follow(follower: RunFollower, options: argparse.Namespace, output: Output) -> int:
    entries = follower.read(options.lines)
    while True:
        for entry in entries:
            _print(entry, options.json, output)
        # Asked before the files are read once more, so that nothing is missed of a run that ends.
        status = _status(follower)
        entries = follower.read()
        has_ended = status.name in ("finished", "failed") or _presence(follower) == "ended"
        if not entries and (options.no_follow or has_ended or output.is_closed):
            _print_status(status, options, output)
            return BAD if status.name == "failed" else FINE
        if not entries:
            time.sleep(options.interval)


def _status(follower: RunFollower) -> RunStatus:
    return status_of(follower.hparams, (), _presence(follower))


def _presence(follower: RunFollower) -> Presence:
    process = writing_process(follower.files[-1]) if follower.files else None
    return process.presence() if process is not None else "unknown"


def _print(entry: Entry, as_json: bool, output: Output) -> None:
    if as_json:
        output.json(
            {
                "step": entry.step,
                "wall_time": entry.wall_time,
                "values": {redacted_name(tag): value for tag, value in entry.values.items()},
                "texts": {tag: redacted_text(text) for tag, text in entry.texts.items()},
            }
        )
        return
    moment = f"{_clock(entry.wall_time)}  step {entry.step}"
    if entry.values:
        values = "  ".join(f"{shown_tag(t)} {number(v)}" for t, v in entry.values.items())
        output.lines([f"{moment}  {values}"])
    for tag, text in entry.texts.items():
        plain = text.replace("**", "").replace("`", "")
        output.lines([f"{moment}  {tag}: {shown_text(plain, _LONGEST_TEXT)}"])


def _print_status(status: RunStatus, options: argparse.Namespace, output: Output) -> None:
    if options.json:
        output.json({"status": {"name": status.name, "reason": status.reason}})
    elif not options.no_follow:
        output.lines([f"The run is no longer written: {status.name}, {status.reason}."])


def _choice(options: argparse.Namespace) -> Callable[[str], bool]:
    if options.tags is not None:
        return lambda tag: options.tags.search(tag) is not None
    return lambda tag: bool(worth_showing([tag]))


def _clock(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):  # Any program may have written it.
        return "--:--:--"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01 to 3600")
    return seconds
