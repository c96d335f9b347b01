"""Shows the log entries of `Trainer` as scalars and texts."""

import logging
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tbtrainer.observers.observer import Observer
from tbtrainer.records import Scalar, Text
from tbtrainer.redaction import HIDDEN, names_a_secret, naming_key, redacted, redacted_name

logger = logging.getLogger(__name__)

# The most numbers of one list that are shown, because each of them is a curve.
MOST_NUMBERS = 100


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
    """Shows what `Trainer` logs, under the tags and at the steps of the stock callback.

    Args:
        class_names: Returns the names of the model's classes, in the order of their numbers.
    """

    def __init__(self, class_names: Callable[[], Sequence[str]] = tuple) -> None:
        self._class_names = class_names
        self._refused: set[str] = set()

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> list[Scalar | Text]:
        """Returns a record for each value of an entry, without secrets.

        Numbers, numpy scalars and lists, arrays and tensors of one number become scalars, and text
        becomes a text. A nested dictionary gives one record per value, and a list of up to
        `MOST_NUMBERS` numbers or a one-dimensional array or tensor of them one record per number.
        `None` is left out. Other values are left out with one warning per key.
        """
        records: list[Scalar | Text] = []
        for path, names, value in self._leaves(entry):
            if value is None:
                continue
            key = redacted_name(path)
            shown = _shown(value)
            if shown is None:
                self._warn(path, key, names, value)
                continue
            shown = _without_secrets(names, shown)
            tag = stock_tag(key)
            if isinstance(shown, str):
                records.append(Text(tag, shown))
            else:
                records.append(Scalar(tag, shown, is_logged=path in entry))
        return records

    def _leaves(
        self, logs: Mapping[Any, Any], prefix: str = "", names: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        """Yields each value of nested dictionaries and of lists of numbers.

        With its path, and with the names of dictionaries along the path. A class name says what a
        number is about, never that it is a secret.
        """
        for name, value in logs.items():
            path = f"{prefix}/{name}" if prefix else str(name)
            named = (*names, naming_key(logs, name))
            numbers = _numbers_in(value)
            if isinstance(value, Mapping):
                yield from self._leaves(value, path, named)
            elif numbers is None:
                yield path, named, value
            elif len(numbers) == 1:
                yield path, named, numbers[0]
            else:
                for part, number in zip(self._parts(len(numbers)), numbers, strict=True):
                    yield f"{path}/{part}", named, number

    def _parts(self, count: int) -> Sequence[str]:
        """Returns the names of the classes if there are so many, else the indices of a list."""
        classes = self._class_names()
        # Two curves of one name would be drawn as one.
        fits = len(classes) == len(set(classes)) == count
        return classes if fits else [str(index) for index in range(count)]

    def _warn(self, path: str, key: str, names: tuple[str, ...], value: Any) -> None:
        if path in self._refused:
            return
        self._refused.add(path)
        logger.warning(
            "tbtrainer cannot show %s, logged as %r, because it is of type %s%s, which is neither "
            "a number, text nor a list of up to %d numbers. The value is left out of TensorBoard. "
            "Further values of this key that cannot be shown cause no warning.",
            _without_secrets(names, reprlib.repr(value)),
            key,
            type(value).__name__,
            _size_of(value),
            MOST_NUMBERS,
        )


def class_names(model: Any) -> list[str]:
    """Returns the names of a model's classes by its `config.id2label`, ordered by their numbers.

    Args:
        model: A model; empty without such a configuration.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(id2label={1: "positive", 0: "negative"})
        >>> class_names(SimpleNamespace(config=config))
        ['negative', 'positive']
    """
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, Mapping):
        return []
    try:
        # The numbers may be text, as in JSON.
        numbers = {int(key): str(name) for key, name in names.items()}
    except (TypeError, ValueError):
        return []
    return [numbers[number] for number in sorted(numbers)]


def _numbers_in(value: Any) -> list[float | None] | None:
    """Returns the numbers of a list, or of a one-dimensional array or tensor.

    Returns:
        At most `MOST_NUMBERS`. `None` for anything else. In a list `None` is no number now.
    """
    if not isinstance(value, list | tuple):
        shape = _shape(value)
        if shape is None or len(shape) != 1:
            return None
    if len(value) > MOST_NUMBERS:
        return None
    try:
        listed = value if isinstance(value, list | tuple) else value.tolist()
    except (ValueError, RuntimeError, TypeError):  # A tensor without elements, as on "meta".
        return None
    numbers: list[float | None] = []
    for item in listed:
        number = _shown(item)
        if isinstance(number, str) or (number is None and item is not None):
            return None
        numbers.append(number)
    return numbers


def _shape(value: Any) -> tuple[int, ...] | None:
    """Returns the shape of an array or a tensor, and `None` for anything else."""
    shape = getattr(value, "shape", None)
    return tuple(shape) if shape is not None and hasattr(value, "tolist") else None


def _size_of(value: Any) -> str:
    shape = _shape(value)
    if shape is not None:
        return f" of shape {shape}"
    return f" of length {len(value)}" if isinstance(value, list | tuple) else ""


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
