"""Log entries of `Trainer` as TensorBoard records: tag, and scalar or text."""

import logging
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from tbtrainer.redaction import HIDDEN, names_a_secret, naming_key, redacted, redacted_name

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
    """Turns a log entry into tags and values, without secrets.

    Numbers, numpy scalars and one-element tensors become scalars, text stays text, nested
    dictionaries become one record per leaf. `None` means that there is no value now. What cannot
    be shown is warned of once per key.

    Args:
        logs: A log entry, as passed to `Trainer.log`.
        refused: Keys already warned of; added to.

    Yields:
        Pairs of a tag and a number or a text.
    """
    for path, names, value in _leaves(logs):
        if value is None:
            continue
        key = redacted_name(path)
        shown = _shown(value)
        if shown is not None:
            yield stock_tag(key), _without_secrets(names, shown)
        elif path not in refused:
            refused.add(path)
            logger.warning(
                "tbtrainer cannot show %s, logged as %r: it is neither a number nor text. It is "
                "left out of TensorBoard while it is of type %s. Further values of this key that "
                "cannot be shown are not reported.",
                _without_secrets(names, reprlib.repr(value)),
                key,
                type(value).__name__,
            )


def _leaves(
    logs: Mapping[Any, Any], prefix: str = "", names: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yields the path of each value of nested dictionaries, all that names it, and the value."""
    for name, value in logs.items():
        path = f"{prefix}/{name}" if prefix else str(name)
        named = (*names, naming_key(logs, name))
        if isinstance(value, Mapping):
            yield from _leaves(value, path, named)
        else:
            yield path, named, value


def _without_secrets(names: tuple[str, ...], value: float | str) -> float | str:
    """Hides a text or a whole number if one of its names says that it is a secret."""
    if isinstance(value, bool | float) or value == "":
        return value
    if any(names_a_secret(name, value) for name in names):
        return HIDDEN
    return str(redacted(value, names[-1])) if isinstance(value, str) else value


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
