"""The command `tbtrainer`: its commands, its help, and what becomes of errors."""

import argparse
import logging
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from tbtrainer.command_line.exit_codes import BROKEN, INTERRUPTED, USAGE, UsageError
from tbtrainer.command_line.output import Output
from tbtrainer.redaction import shown

# What each command does, for the help. The command is in the module of its name, which has
# `DESCRIPTION`, `EPILOG`, `add_arguments` and `run`.
COMMANDS = {
    "show": "what a run is, its status, last and best values, health",
    "compare": "arguments that differ, metrics side by side, and a check for CI",
    "export": "what a run holds as CSV, JSON lines or Parquet",
    "tail": "follows a run while it is written",
    "doctor": "checks the files of a run, and repairs them",
}
# The most and the least characters of a line of the help.
_WIDEST = 100
_NARROWEST = 30
_DESCRIPTION = """\
Looks at the runs that tbtrainer, Trainer or another program wrote for TensorBoard.

A run is a directory with event files, such as out/runs/Nov28_10-00-00_host. A local path or a URL
that fsspec knows will do. If you name a directory with several runs below it, `show` lists them."""
_EPILOG = """\
exit codes:
  0    done, and nothing is wrong
  1    what was asked about is bad: a run does not pass --fail-if, doctor found
       a problem, tail followed a run that failed
  2    the command cannot be carried out as it was given: an unknown option,
       no such run
  3    an error in tbtrainer itself
  130  interrupted by Ctrl-C (tail ends with 0)

Every command has --json for scripts, and its own help: tbtrainer show --help"""


def command_parser(chosen: str | None) -> argparse.ArgumentParser:
    """Returns the parser of the command line.

    Args:
        chosen: The command that is parsed. Only its module is imported, because NumPy and the
            reader take most of the time that `tbtrainer --help` would take.
    """
    parser = argparse.ArgumentParser(
        prog="tbtrainer",
        description=filled(_DESCRIPTION),
        epilog=filled(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tbtrainer {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            _complete(command, name)
    return parser


def _complete(command: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments and the help of a command."""
    module = import_module(f"tbtrainer.command_line.{name}")
    command.description = filled(module.DESCRIPTION)
    command.epilog = filled(f"{module.EPILOG}\n\nAll exit codes are listed by: tbtrainer --help")
    module.add_arguments(command)
    command.add_argument(
        "--traceback", action="store_true", help="show where an error in tbtrainer itself is"
    )
    command.set_defaults(command=name, execute=module.run)


def filled(text: str) -> str:
    """Returns a text whose paragraphs are as wide as the terminal.

    A paragraph with indented lines, such as a list of examples, stays as it is.
    """
    width = min(max(shutil.get_terminal_size().columns - 2, _NARROWEST), _WIDEST)
    return "\n\n".join(
        paragraph if "\n  " in paragraph else textwrap.fill(paragraph, width)
        for paragraph in text.split("\n\n")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; see `tbtrainer.command_line.exit_codes`.

    Args:
        arguments: The words after `tbtrainer`; `None` for those of this process.

    Raises:
        SystemExit: The words are no command, or ask for help. argparse has printed what it is.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _executed(words)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def _executed(words: Sequence[str]) -> int:
    """Runs a command and returns its exit code. An error is printed as one line."""
    chosen = next((word for word in words if not word.startswith("-")), None)
    # Most of the time of a short command is spent here, with imports.
    options = command_parser(chosen).parse_args(words)
    logging.basicConfig(format="tbtrainer: %(message)s", level=logging.WARNING)
    output = Output()
    try:
        code: int = options.execute(options, output)
        return code
    except (UsageError, OSError, ValueError) as error:
        return _failed(options, output, error, USAGE)
    except Exception as error:  # A bug. The user gets one line, and the rest on request.
        if options.traceback:
            traceback.print_exc()
        return _failed(options, output, error, BROKEN)


def _failed(options: argparse.Namespace, output: Output, error: Exception, code: int) -> int:
    """Prints one line about an error: on standard error, and as JSON if that was asked for."""
    message = str(error) if isinstance(error, UsageError) else _message(error)
    if code == BROKEN:
        what = f"{type(error).__name__}: {message}"
        message = f"error in tbtrainer itself ({what}). --traceback shows where."
    print(f"tbtrainer {options.command}: {message}", file=sys.stderr)
    if getattr(options, "json", False):
        # Standard output itself may be what failed, because its disk is full.
        with suppress(OSError):
            output.json({"error": message})
    return code


def _message(error: Exception) -> str:
    """Returns the text of an error without secrets and without the number of a system error."""
    if not isinstance(error, OSError) or not error.strerror:
        return shown(error)
    place = f"{shown(error.filename)}: " if error.filename else ""
    return f"{place}{shown(error.strerror)}"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tbtrainer")
    except PackageNotFoundError:  # Run from a copy of the sources.
        return "(not installed)"
