"""Log entries of `Trainer` as TensorBoard records: tag, and scalar or text."""

import logging
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from tbtrainer.redaction import redacted

logger = logging.getLogger(__name__)


def stock_tag(key: str) -> str:
    """Returns the tag under which the stock `TensorBoardCallback` writes a log entry.

    Example:
        >>> stock_tag("eval_loss"), stock_tag("test_f1"), stock_tag("loss")
        ('eval/loss', 'test/f1', 'train/loss')
    """
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key[len(prefix) + 1 :]}"
    return f"train/{key}"


def records(logs: Mapping[str, Any], refused: set[str]) -> Iterator[tuple[str, float | str]]:
    """Turns a log entry into tags and values.

    Numbers, numpy scalars and one-element tensors become scalars, text stays text, nested
    dictionaries become one record per leaf. What cannot be shown is warned of once per key.

    Args:
        logs: A log entry, as passed to `Trainer.log`.
        refused: Keys already warned of; added to.

    Yields:
        Pairs of a tag and a number or a text.
    """
    for key, value in _leaves(logs):
        shown = _shown(value)
        if shown is not None:
            yield stock_tag(key), shown
        elif key not in refused:
            refused.add(key)
            logger.warning(
                "tbtrainer cannot show %s, logged as %r: it is neither a number nor text, but %s. "
                "It is left out of TensorBoard, now and later.",
                redacted(reprlib.repr(value), key),
                key,
                type(value).__name__,
            )


def _leaves(logs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in logs.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _shown(value: Any) -> float | str | None:
    if isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        # An int beyond the range of a float has no place on a chart but at its end.
        return value if abs(value) < 2**1023 else (math.inf if value > 0 else -math.inf)
    # numpy scalars and arrays, torch tensors: whatever has exactly one element.
    if getattr(value, "size", None) is None or not hasattr(value, "item"):
        return None
    try:
        item = value.item()
    except (ValueError, RuntimeError, TypeError):
        return None
    return _shown(item) if isinstance(item, str | bool | int | float) else None
