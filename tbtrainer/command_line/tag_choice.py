"""Which tags a command is about."""

import argparse
import re
from collections.abc import Iterable

from tbtrainer import tags
from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.terminal_text import printable

# What `Trainer` logs beside the metrics.
_BOOKKEEPING = re.compile(
    r"(?:^|[/_])(?:epoch|total_flos|num_input_tokens_seen|num_tokens|runtime|preparation_time"
    r"|\w*_per_second)$"
)
# Of the tags that tbtrainer adds, those that are shown without being asked for.
_SHOWN_OF_OURS = (tags.GRAD_NORM_TOTAL, tags.TOKENS_PER_SECOND, tags.SAMPLES_PER_SECOND)


def add_tags_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--tags` to a command.

    Args:
        parser: Of the command.
        what: What the command does with the tags that match.
    """
    parser.add_argument(
        "--tags",
        metavar="REGEX",
        type=_pattern,
        help=f"{what}; a regular expression that is searched for in the tag",
    )


def matching(names: Iterable[str], pattern: re.Pattern[str] | None) -> list[str]:
    """Returns the tags in which a pattern is found; all if it is `None`.

    Raises:
        UsageError: There is no such tag.
    """
    names = list(names)
    found = [name for name in names if pattern is None or pattern.search(name)]
    if pattern is not None and not found:
        raise UsageError(
            f"--tags '{printable(pattern.pattern)}' matches none of {len(names)} tags."
        )
    return found


def worth_showing(names: Iterable[str]) -> list[str]:
    """Returns the tags of metrics: without what is only bookkeeping, and detail of tbtrainer."""
    return [name for name in names if not _BOOKKEEPING.search(name) and not _is_detail(name)]


def _is_detail(name: str) -> bool:
    is_shown = any(known.matches(name) for known in _SHOWN_OF_OURS)
    return not is_shown and any(known.matches(name) for known in tags.TAGS)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
