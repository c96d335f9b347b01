"""The numbers of the blocks of a model, from files of JSON lines in the run directory."""

import json
import math
import re
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tbtrainer.event_file.json_lines import MOST_BYTES, lines_of_a_run
from tbtrainer.event_file.names import is_removed
from tbtrainer.reading.run_files import Folder

if TYPE_CHECKING:
    import pandas

# With a number if the name belonged to a file of another program; see `JsonLinesFile`.
_FILE = re.compile(r"blocks-(\w+?)(-[1-9])?\.jsonl(\.removed-after-.*)?")
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
    the run, the last one in the file counts, and lines of later steps before it do not. The times
    of the lines do not matter: a clock may have been set back.

    Args:
        folder: The run directory.
        target: Only lines about it; `None` for all.
        with_removed: Whether lines are returned, too, that rewinds took out or that later ones
            have replaced.
    """
    found: list[dict[str, Any]] = []
    matches = [match for name in folder.files() if (match := _FILE.fullmatch(name))]
    # A file with a number was begun after the one without.
    for match in sorted(matches, key=lambda match: (match[1], match[2] or "", match[0])):
        if target in (None, match[1]) and (with_removed or not is_removed(match[0])):
            found += _lines_of(folder, match[0], match[1])
    if not with_removed:
        found = _not_replaced(found)
    return sorted(found, key=lambda line: (line["step"], line["time"]))


def _lines_of(folder: Folder, name: str, target: str) -> list[dict[str, Any]]:
    """Returns the lines of a file in their order; none if it is not one of a run."""
    # A rewind may have renamed it since it was listed.
    with suppress(FileNotFoundError), folder.open(name) as file:
        data = file.read(MOST_BYTES + 1)
        lines = lines_of_a_run(data) if len(data) <= MOST_BYTES else None
        found = []
        for line in lines or []:
            # tbtrainer writes no values that are nested so deeply.
            with suppress(RecursionError):
                found.append({**json.loads(line), "target": target})
        return [line for line in found if 0 <= line["step"] < 2**63 and _has_time(line)]
    return []


def _has_time(line: dict[str, Any]) -> bool:
    return math.isfinite(_number(line["time"]))


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
