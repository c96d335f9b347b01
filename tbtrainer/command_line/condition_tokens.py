"""Finds the tags in a condition, and puts names of Python in their places.

`eval/loss` would be a division in Python. So the text is divided into tokens here first.
"""

import re
from collections.abc import Sequence

# Stands for the baseline run in a condition.
BASELINE = "baseline"
_WORDS = frozenset(("and", "or", "not", BASELINE))
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<quoted>"[^"]+"|'[^']+')
    | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_.]*(?:/[A-Za-z0-9_.]+)*)
    | (?P<sign><=|>=|==|!=|[<>+\-*/(),])
    """,
    re.VERBOSE,
)


class NotACondition(ValueError):
    """A text is not a condition. The message says why, and is shown to the user."""


def with_placeholders(source: str, functions: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Returns a condition with a placeholder for each tag, and the tag of each placeholder.

    Args:
        source: The condition.
        functions: Names that are functions if a parenthesis follows, and else tags.

    Raises:
        NotACondition: A character belongs to no token.

    Example:
        >>> with_placeholders("min(eval/loss) > baseline / 2", ("min",))
        ('min ( t0_ ) > baseline / 2', {'t0_': 'eval/loss'})
    """
    parts: list[str] = []
    tags: dict[str, str] = {}
    position = 0
    while position < len(source):
        found = _TOKEN.match(source, position)
        if found is None:
            raise NotACondition(f"it cannot have the character {source[position]!r}")
        position = found.end()
        if found["space"]:
            continue
        token = found[0]
        is_function = token in ("abs", *functions) and source[position:].lstrip().startswith("(")
        if found["quoted"] or (found["name"] and token not in _WORDS and not is_function):
            placeholder = f"t{len(tags)}_"
            tags[placeholder] = token[1:-1] if found["quoted"] else token
            parts.append(placeholder)
        elif found["number"]:
            # As Python writes it: `007` is not a number there.
            parts.append(repr(float(token)))
        else:
            parts.append(token)
    return " ".join(parts), tags
