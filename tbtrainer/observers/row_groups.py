"""Which tensors share a row of a snapshot.

A mixture of experts can have tens of thousands of tensors. A row for each would take gigabytes, and
so many histograms are of no use. Tensors whose names differ only in a number, such as the
experts of a layer, can therefore share a row.
"""

import re
from collections import Counter
from collections.abc import Sequence

# With `auto`, tensors share rows if there are more tensors than this.
AUTO_MAX_ROWS = 1000
_NUMBER = re.compile(r"\d+")


def row_names(names: Sequence[str], global_counts: Sequence[int | None], detail: str) -> list[str]:
    """Returns the name of each tensor's row. Tensors with the same row name share a row.

    Row names keep the number of the block, such as the 3 of `layers.3`. It is the first number that
    is not at the beginning of the name.

    Args:
        names: Names of the tensors, all different.
        global_counts: Elements of each whole tensor; `None` if not known beforehand.
        detail: `"parameter"`: one row per tensor. `"block"`: tensors whose names differ only in
            numbers after the block share a row, whose name has `*` in place of these numbers.
            `"auto"`: for up to `AUTO_MAX_ROWS` tensors one row per tensor. For more tensors the
            rows of `"block"`, but a number at the end of a name, as in a `ParameterList`, is kept.

    Returns:
        One row name per tensor. A tensor keeps its own name if no other tensor would share the row,
        or if the tensors that would share it differ in size.

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
    """Returns the name with `*` in place of every number after the block.

    Args:
        name: Name of a tensor.
        last_too: Whether a number at the end of the name is replaced too.
    """
    segments = name.split(".")
    numbers = [at for at, segment in enumerate(segments) if _NUMBER.fullmatch(segment)]
    leading = 0
    while leading < len(numbers) and numbers[leading] == leading:
        leading += 1
    for at in numbers[leading + 1 :]:
        if last_too or at < len(segments) - 1:
            segments[at] = "*"
    return ".".join(segments)
