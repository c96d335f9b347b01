"""The content of a file of JSON lines: what a line is, and which files are made of such lines."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tbtrainer.redaction import redacted

# End of the names of these files.
JSON_LINES_END = ".jsonl"
# A file that is longer is not one of a run. No file is written that is longer.
MOST_BYTES = 2**20
# Every line begins with this.
_BEGINNING = b'{"step": '


def json_line(values: Mapping[str, Any], step: int, time: float) -> bytes:
    r"""Returns a line: a JSON object, ASCII, with a line break at its end.

    Args:
        values: The values of the line; see `tbtrainer.records.JsonLine`.
        step: The first key of the line.
        time: The second key, in seconds since 1970.

    Raises:
        ValueError: The values cannot be written as JSON.

    Example:
        >>> json_line({"loss": float("nan")}, 3, 1.5)
        b'{"step": 3, "time": 1.5, "loss": "NaN"}\n'
    """
    stamped = {"step": int(step), "time": time}
    content = {**stamped, **_finite(redacted(_python(values))), **stamped}
    return json.dumps(content, allow_nan=False).encode() + b"\n"


def lines_of_a_run(data: bytes) -> list[bytes] | None:
    """Returns the lines of a file that tbtrainer has written, each with its line break.

    The file may be one of another program. If its last line is incomplete, it is left out.

    Args:
        data: The content of the file.

    Returns:
        The lines; `None` if any other one is not a JSON object with step and time.
    """
    *lines, rest = data.split(b"\n")
    # Without its line break a line may be whole, for example after an editor has saved the file.
    if rest and (step_of_line(rest) is not None or not _is_torn(rest)):
        lines.append(rest)
    if any(step_of_line(line) is None for line in lines):
        return None
    return [line + b"\n" for line in lines]


def _is_torn(rest: bytes) -> bool:
    """Whether the end of a file can be the beginning of a line."""
    return rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)


def step_of_line(line: bytes) -> int | None:
    """Returns the step of a line; `None` if it is not a JSON object with a step and a time."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    step, time = values.get("step"), values.get("time")
    is_stamped = type(step) is int and type(time) in (int, float)
    return step if is_stamped else None


def _python(value: Any, depth: int = 32) -> Any:
    """Returns a value with numbers of Python in the place of those of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if depth and isinstance(value, Mapping):
        return {key: _python(inner, depth - 1) for key, inner in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_python(inner, depth - 1) for inner in value]
    return value


def _finite(value: Any) -> Any:
    """Returns a redacted value with strings in the place of NaN and infinities."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
