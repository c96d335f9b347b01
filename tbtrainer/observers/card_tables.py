"""Tables of the cards that say what a run is."""

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from tbtrainer.panels.markdown import cell, table, without_middle
from tbtrainer.panels.panel import Panel
from tbtrainer.redaction import redacted

# The most characters of one value.
MOST_CHARACTERS = 300


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """Returns a Markdown table of names and values. Values that are empty are left out.

    Args:
        title: Above the names.
        facts: Values by name, both as Markdown.
    """
    return table((title, ""), ([name, value] for name, value in facts.items() if value))


def code(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns a text without secrets as code for one cell of a Markdown table.

    A text that code in a table cannot hold is shown without the look of code.

    Example:
        >>> code("adamw_torch"), code("a | b")
        ('`adamw_torch`', 'a &#124; b')
    """
    if not text or not text.isprintable() or text != text.strip() or set("`|") & set(text):
        return cell(text, most)
    return f"`{without_middle(text, most)}`"


def value_cell(value: Any, name: str) -> str:
    """Returns a value of an argument for one cell of a Markdown table, without its secrets.

    Args:
        value: Of any type. Objects with a `to_dict` are shown as their fields.
        name: Of the argument.
    """
    return code(_as_text(redacted(_plain(value), name)))


def sections(parts: Iterable[str]) -> str:
    """Returns a card of several Markdown tables."""
    return "\n\n".join(part for part in parts if part)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Returns the first of some names, and how many others there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def bytes_shown(count: float) -> str:
    """Returns a number of bytes in the unit that suits it.

    Example:
        >>> bytes_shown(3 * 2**20), bytes_shown(700)
        ('3.0 MiB', '0.7 KiB')
    """
    exponent = 3 if count >= 2**30 else 2 if count >= 2**20 else 1
    return f"{count / 2 ** (10 * exponent):,.1f} {('KiB', 'MiB', 'GiB')[exponent - 1]}"


def _plain(value: Any) -> Any:
    """Returns an object as its fields, or as its name or value, where it has them."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return value.name if isinstance(value, Panel) else value


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return json.dumps(value, default=str)
    return str(value)
