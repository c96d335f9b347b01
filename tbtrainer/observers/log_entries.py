"""Log entries of `Trainer` as TensorBoard records: tag, and scalar or text."""

import logging
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from tbtrainer.observers.observer import Observer
from tbtrainer.records import Scalar, Text
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


class LogEntries(Observer):
    """Shows what `Trainer` logs, under stock's tags and at stock's steps."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> list[Scalar | Text]:
        """Returns a record for each value of an entry, without secrets.

        Numbers, numpy scalars and one-element tensors become scalars, text stays text, nested
        dictionaries become one record per leaf. `None` means that there is no value now. A value
        that cannot be shown causes one warning per key.
        """
        records: list[Scalar | Text] = []
        for path, names, value in _leaves(entry):
            if value is None:
                continue
            key = redacted_name(path)
            shown = _shown(value)
            if shown is None:
                self._warn(path, key, names, value)
                continue
            shown = _without_secrets(names, shown)
            tag = stock_tag(key)
            records.append(Text(tag, shown) if isinstance(shown, str) else Scalar(tag, shown))
        return records

    def _warn(self, path: str, key: str, names: tuple[str, ...], value: Any) -> None:
        if path in self._refused:
            return
        self._refused.add(path)
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
