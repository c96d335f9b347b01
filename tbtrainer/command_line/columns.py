"""Rows of text in columns."""

from collections.abc import Sequence

_BETWEEN = "  "


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Returns rows as lines whose columns begin at the same place.

    Args:
        rows: Each with the same number of cells.
        right: The columns that are aligned to the right, counted from 0.

    Example:
        >>> columns([["loss", "0.5"], ["accuracy", "12"]], right=(1,))
        ['loss      0.5', 'accuracy   12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_BETWEEN.join(cells).rstrip())
    return lines
