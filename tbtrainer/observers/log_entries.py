"""Shows the log entries of `Trainer` as scalars and texts."""

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
    """Shows what `Trainer` logs, under the tags and at the steps of the stock callback."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> list[Scalar | Text]:
        """Returns a record for each value of an entry, without secrets.

        Numbers, numpy scalars and one-element tensors become scalars, and text becomes a text. A
        nested dictionary gives one record per value. `None` is left out. Other values are left out
        with one warning per key.
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
            "tbtrainer cannot show %s, logged as %r, because it is of type %s, which is neither a "
            "number nor text. The value is left out of TensorBoard. Further values of this key "
            "that cannot be shown cause no warning.",
            _without_secrets(names, reprlib.repr(value)),
            key,
            type(value).__name__,
        )


def _leaves(
    logs: Mapping[Any, Any], prefix: str = "", names: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yields each value of nested dictionaries, with its path and the names along the path."""
    for name, value in logs.items():
        path = f"{prefix}/{name}" if prefix else str(name)
        named = (*names, naming_key(logs, name))
        if isinstance(value, Mapping):
            yield from _leaves(value, path, named)
        else:
            yield path, named, value


def _without_secrets(names: tuple[str, ...], value: float | str) -> float | str:
    """Hides a text or a whole number if one of its names is that of a secret."""
    if isinstance(value, bool | float) or value == "":
        return value
    if any(names_a_secret(name, value) for name in names):
        return HIDDEN
    return str(redacted(value, names[-1])) if isinstance(value, str) else value


def _shown(value: Any) -> float | str | None:
    if isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        # An int beyond the range of a float is shown as infinity.
        return value if abs(value) < 2**1023 else (math.inf if value > 0 else -math.inf)
    # Numpy scalars, and arrays and tensors that have exactly one element.
    if getattr(value, "size", None) is None or not hasattr(value, "item"):
        return None
    try:
        item = value.item()
    except (ValueError, RuntimeError, TypeError):
        return None
    return _shown(item) if isinstance(item, str | bool | int | float) else None
