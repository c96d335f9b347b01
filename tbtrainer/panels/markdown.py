"""Text of a model or of data in a Markdown table, which it must not break."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from tbtrainer.redaction import redacted_text

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&]")


def cell(text: str, most: int = 200) -> str:
    """Returns a text for one cell: on one line, shortened, without secrets, and shown as it is.

    Of a long text the beginning and the end are shown. Secrets are hidden first, because they could
    not be recognised in what is escaped or cut.

    Args:
        text: Any text.
        most: The most characters to show.

    Example:
        >>> cell("a | b")
        'a &#124; b'
    """
    line = one_line(redacted_text(text))
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", without_middle(line, most))


def one_line(text: str) -> str:
    r"""Returns a text on one line, in which control characters and half surrogates are replaced.

    The latter cannot be written: they have no UTF-8.

    Example:
        >>> one_line("a\tb\n") == "a b", one_line("\ud800") == "\ufffd"
        (True, True)
    """
    line = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in line)


def without_middle(text: str, most: int) -> str:
    """Returns at most so many characters of a text: two thirds from its beginning, then its end.

    Example:
        >>> without_middle("0123456789", 7)
        '0123…89'
    """
    if len(text) <= most:
        return text
    end = (most - 1) // 3
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table of cells that are already escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
