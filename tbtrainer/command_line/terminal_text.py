r"""Texts of event files as a terminal or a script may get them.

Any program may have written an event file, so a tag may hold the control characters with which a
terminal is taken over, and a text may hold a password.
"""

import json
import math
from typing import Any

from tbtrainer.redaction import redacted_name, redacted_text

# The most characters of a tag or of one value that are printed.
LONGEST = 200


def printable(text: str) -> str:
    r"""Returns a text in which every character that a terminal may act on is an escape sequence.

    These are control characters, those that change the direction of writing, and those that have no
    width. Line breaks and tabs are among them.

    Example:
        >>> printable("loss\x1b[2J")
        'loss\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shown_tag(tag: str) -> str:
    """Returns a tag without its secrets, printable, and at most `LONGEST` characters long."""
    return _shortened(printable(redacted_name(tag)))


def shown_text(text: str, most: int = LONGEST) -> str:
    """Returns a text on one line, without its secrets, printable, and at most `most` long."""
    return _shortened(printable(redacted_text(" ".join(text.split()))), most)


def json_line(value: Any) -> str:
    r"""Returns a value as one line of JSON, ASCII and without control characters.

    NaN and infinities, which JSON does not have, are the strings "NaN", "Infinity" and "-Infinity",
    as in `health.jsonl`.

    Example:
        >>> json_line({"loss": float("nan"), "tag": "\x1b"})
        '{"loss": "NaN", "tag": "\\u001b"}'
    """
    # `json.dumps` escapes all control characters except this one.
    return json.dumps(_finite(value), allow_nan=False).replace("\x7f", "\\u007f")


def number(value: float) -> str:
    """Returns a value with at most five significant digits.

    Example:
        >>> number(0.000123456), number(123456789.0), number(2.0)
        ('0.00012346', '1.2346e+08', '2')
    """
    return f"{value:.5g}"


def _shortened(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
