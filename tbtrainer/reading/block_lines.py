"""The numbers of the blocks of a model, from files of JSON lines in the run directory."""

import json
import math
import re
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tbtrainer.event_file.json_lines import lines_of_a_run
from tbtrainer.event_file.names import is_removed
from tbtrainer.reading.run_files import MOST_BYTES, Folder

if TYPE_CHECKING:
    import pandas

# With a number if the name belonged to a file of another program; see `JsonLinesFile`.
_FILE = re.compile(r"blocks-(\w+?)(-\d+)?\.jsonl(\.removed-after-.*)?")
_COLUMNS = ("rms", "abs_max", "zeros", "kurtosis", "ratio", "nonfinite")


def file_of_blocks(target: str) -> str:
    """Returns the name of the file that holds the numbers of the blocks.

    Example:
        >>> file_of_blocks("gradients")
        'blocks-gradients.jsonl'
    """
    return f"blocks-{target}.jsonl"


def block_lines(
    folder: Folder, target: str | None = None, *, with_removed: bool = False
) -> list[dict[str, Any]]:
    """Returns the lines about blocks, in the order of their steps.

    If several lines are about the same step of a target, as after a training that began again in
    the run, the latest one counts, and earlier lines of later steps do not.

    Args:
        folder: The run directory.
        target: Only lines about it; `None` for all.
        with_removed: Whether lines are returned, too, that rewinds took out or that later ones
            have replaced.
    """
    found: list[dict[str, Any]] = []
    for name in sorted(folder.files()):
        match = _FILE.fullmatch(name)
        if match is None or target not in (None, match[1]):
            continue
        if is_removed(name) and not with_removed:
            continue
        with folder.open(name) as file:
            lines = lines_of_a_run(file.read(MOST_BYTES)) or []
        for line in lines:
            # tbtrainer writes no values that are nested so deeply.
            with suppress(RecursionError):
                found.append({**json.loads(line), "target": match[1]})
    found.sort(key=lambda line: line["time"])
    if not with_removed:
        found = _not_replaced(found)
    return sorted(found, key=lambda line: (line["step"], line["time"]))


def _not_replaced(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out the lines after which one of the same or an earlier step was written."""
    kept: list[dict[str, Any]] = []
    first: dict[str, int] = {}  # Step of the line of a target that comes next.
    for line in reversed(lines):
        if line["step"] < first.get(line["target"], math.inf):
            first[line["target"]] = line["step"]
            kept.append(line)
    return kept


def blocks_frame(lines: Collection[dict[str, Any]]) -> "pandas.DataFrame":
    """Returns the numbers as a frame, a row for each block of each line.

    Lines that tbtrainer has not written are left out.

    Returns:
        Columns target, step, wall_time, block, `rms`, `abs_max`, `zeros` (a share), `kurtosis`
        (about zero), `ratio` (of updates: RMS(update)/RMS(parameter)) and `nonfinite` (elements).
        NaN stands for a number that is not known.
    """
    import pandas

    columns: dict[str, list[Any]] = {
        name: [] for name in ("target", "step", "wall_time", "block", *_COLUMNS)
    }
    for line in lines:
        blocks = line.get("blocks")
        if not isinstance(blocks, list) or not all(isinstance(name, str) for name in blocks):
            continue
        numbers = {name: _numbers(line.get(name), len(blocks)) for name in _COLUMNS}
        columns["target"] += [line["target"]] * len(blocks)
        columns["step"] += [line["step"]] * len(blocks)
        columns["wall_time"] += [line["time"]] * len(blocks)
        columns["block"] += blocks
        for name, of_blocks in numbers.items():
            columns[name] += of_blocks
    types = {"step": "int64", "wall_time": "float64", **dict.fromkeys(_COLUMNS, "float64")}
    return pandas.DataFrame(columns).astype(types)


def _numbers(values: Any, count: int) -> list[float]:
    """Returns one number per block; NaN in the place of what is no number."""
    numbers = values if isinstance(values, list) and len(values) == count else [None] * count
    return [_number(value) for value in numbers]


def _number(value: Any) -> float:
    # Infinity is written as a text.
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
