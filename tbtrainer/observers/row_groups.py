"""Which tensors share a row of a snapshot: siblings whose names differ in a number only.

A mixture of experts can have tens of thousands of tensors. Their counters would take gigabytes, and
as many histograms cannot be looked at. The experts of a layer are therefore counted together.
"""

import re
from collections import Counter
from collections.abc import Sequence

# Beyond this number of tensors `auto` lets siblings share a row.
AUTO_MAX_ROWS = 1000
_NUMBER = re.compile(r"\d+")


def row_names(names: Sequence[str], global_counts: Sequence[int | None], detail: str) -> list[str]:
    """Returns the name of each tensor's row; tensors of one name share it.

    The number of a block (`layers.3`) is the first in a name that does not begin it, and is kept.

    Args:
        names: Of the tensors, each once.
        global_counts: Elements of each whole tensor; `None` if not known beforehand.
        detail: `"parameter"`: a row for each tensor. `"block"`: tensors whose names differ only in
            numbers after that of the block share a row, whose name has `*` for the number.
            `"auto"`: as `"parameter"` for up to `AUTO_MAX_ROWS` tensors; beyond, tensors share a
            row as with `"block"`, except where the number ends the name, as in a `ParameterList`.

    Returns:
        One name per tensor. A tensor keeps its own name where its siblings differ in size, because
        they then have different tasks, and where it has none.

    Example:
        >>> names = [f"layers.3.mlp.experts.{n}.up_proj.weight" for n in range(8)]
        >>> set(row_names(names, [4096] * 8, "block"))
        {'layers.3.mlp.experts.*.up_proj.weight'}
    """
    if detail == "parameter" or (detail == "auto" and len(names) <= AUTO_MAX_ROWS):
        return list(names)
    patterns = [_pattern(name, last_too=detail == "block") for name in names]
    siblings = Counter(patterns)
    kinds = Counter(pattern for pattern, _ in set(zip(patterns, global_counts, strict=True)))
    return [
        pattern if siblings[pattern] > 1 and kinds[pattern] == 1 else name
        for name, pattern in zip(names, patterns, strict=True)
    ]


def _pattern(name: str, last_too: bool) -> str:
    """The name with `*` for every number after that of the block."""
    segments = name.split(".")
    numbers = [at for at, segment in enumerate(segments) if _NUMBER.fullmatch(segment)]
    leading = 0
    while leading < len(numbers) and numbers[leading] == leading:
        leading += 1
    for at in numbers[leading + 1 :]:
        if last_too or at < len(segments) - 1:
            segments[at] = "*"
    return ".".join(segments)
