"""Reads the Markdown tables of the cards `run/arguments`, `run/model` and `run/environment`."""

import html
import re
from dataclasses import dataclass

# The bar between two cells. A bar inside of a cell is escaped, or an entity.
_BAR = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"[\s|:-]+")
# The most rows of a card that are read. Any program may have written it.
MOST_ROWS = 2000


@dataclass(frozen=True)
class CardTable:
    """One table of a card.

    Attributes:
        header: The cells of its first row.
        rows: The cells of the others, each with as many as the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def card_tables(markdown: str) -> list[CardTable]:
    r"""Returns the tables of a card. Cells are plain text.

    Example:
        >>> card_tables("| Model | |\n|---|---|\n| class | `Bert` |")
        [CardTable(header=('Model', ''), rows=(('class', 'Bert'),))]
    """
    tables: list[CardTable] = []
    lines: list[tuple[str, ...]] = []
    for line in [*markdown.splitlines()[:MOST_ROWS], ""]:
        if line.lstrip().startswith("|"):
            if not _RULE.fullmatch(line):
                lines.append(_cells(line))
        elif lines:
            header, *rows = lines
            width = len(header)
            tables.append(CardTable(header, tuple((*row, *[""] * width)[:width] for row in rows)))
            lines = []
    return tables


def _cells(line: str) -> tuple[str, ...]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return tuple(map(_plain, _BAR.split(inner)))


def _plain(cell: str) -> str:
    """Returns a cell without the signs of Markdown and HTML."""
    text = cell.strip()
    if len(text) > 1 and text.startswith("`") and text.endswith("`"):
        return text[1:-1]
    return html.unescape(re.sub(r"\\([\\|`*_<>#])", r"\1", text))
