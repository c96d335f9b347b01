"""A curve in one line of characters."""

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
# For a terminal whose encoding has no blocks.
ASCII_BLOCKS = "_.-=+*#@"
# In the place of a value that is NaN or infinite.
NOT_FINITE = "x"


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Returns a curve as one line, from the lowest to the highest of its values.

    Args:
        values: In the order of the steps. If there are more than `width`, neighbours are averaged.
        width: The most characters.
        blocks: The characters, from the lowest to the highest.

    Example:
        >>> sparkline([3.0, 2.0, 1.0, float("nan")], 10)
        '█▅▁x'
    """
    points = _averaged(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return NOT_FINITE * len(points)
    lowest, highest = min(finite), max(finite)
    return "".join(_block(point, lowest, highest, blocks) for point in points)


def blocks_for(encoding: str | None) -> str:
    """Returns the characters that an encoding can show."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BLOCKS
    return BLOCKS


def _averaged(values: Sequence[float], width: int) -> list[float]:
    """Returns at most `width` values, each the mean of neighbours."""
    count = min(len(values), width)
    edges = [index * len(values) // max(count, 1) for index in range(count + 1)]
    return [
        math.fsum(values[begin:end]) / (end - begin)
        if all(map(math.isfinite, values[begin:end]))
        else math.nan
        for begin, end in zip(edges, edges[1:], strict=False)
    ]


def _block(point: float, lowest: float, highest: float, blocks: str) -> str:
    if not math.isfinite(point):
        return NOT_FINITE
    if highest == lowest:
        return blocks[len(blocks) // 2 - 1]
    # Halves, because the difference of two large numbers may be infinite.
    share = (point / 2 - lowest / 2) / (highest / 2 - lowest / 2)
    return blocks[min(int(share * len(blocks)), len(blocks) - 1)]
