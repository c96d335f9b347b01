"""The files of JSON lines of a run, read back."""

import json
import math
import re
from contextlib import suppress
from typing import Any

from tbtrainer.event_file.json_lines import lines_of_a_run
from tbtrainer.event_file.names import is_removed
from tbtrainer.reading.run_files import MOST_BYTES, Folder

# With a number if the name belonged to a file of another program; see `JsonLinesFile`.
_HEALTH = re.compile(r"health(-\d+)?\.jsonl(\.removed-after-.*)?")
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def health_lines(folder: Folder, *, with_removed: bool) -> list[dict[str, Any]]:
    """Returns the lines of `health.jsonl`, by time; none if there is no such file.

    Args:
        folder: The run directory.
        with_removed: Whether lines are returned, too, that rewinds took out.
    """
    found: list[dict[str, Any]] = []
    for name in sorted(filter(_HEALTH.fullmatch, folder.files())):
        if is_removed(name) and not with_removed:
            continue
        with folder.open(name) as file:
            lines = lines_of_a_run(file.read(MOST_BYTES)) or []
        for line in lines:
            # tbtrainer writes no values that are nested so deeply.
            with suppress(RecursionError):
                found.append(_numbers(json.loads(line)))
    return sorted(found, key=lambda line: line["time"])


def _numbers(value: Any) -> Any:
    """Returns a value with numbers in the place of the texts that stand for them."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
