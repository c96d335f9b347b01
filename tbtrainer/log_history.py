"""Saves trainer states whose log history has values that JSON cannot hold, such as arrays.

`Trainer.evaluate` logs what `compute_metrics` returns. Its `denumpify_detensorize` turns numbers of
NumPy and PyTorch into numbers of Python, and leaves arrays as they are. The next checkpoint then
ends the training with a `TypeError` (transformers 4.57 to 5.24).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from torch import Tensor

from tbtrainer.wrapping import wrapped_on_instance


def saved_as_json(state: Any) -> AbstractContextManager[None]:
    """Returns a context in which a state can be saved whatever was logged.

    If `Trainer` can save the state, the file is `Trainer`'s own, byte by byte. Otherwise arrays and
    tensors are saved as lists. The log history in memory is not changed.

    Args:
        state: A `TrainerState`.
    """

    def save(save_to_json: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            # It builds the whole text before it opens the file.
            save_to_json(*args, **kwargs)
        except (TypeError, ValueError, RuntimeError):
            history = state.log_history
            state.log_history = [as_json(entry) for entry in history]
            try:
                save_to_json(*args, **kwargs)
            finally:
                state.log_history = history

    return wrapped_on_instance(state, "save_to_json", save)


def as_json(value: Any) -> Any:
    """Returns a value that JSON can hold, with sorted keys: the value itself, or a changed copy.

    Arrays and tensors become lists, and their scalars numbers. A dictionary whose keys JSON cannot
    hold or sort gets text as keys. Of anything else the text form is returned.

    Example:
        >>> as_json({"f1": np.array([0.5, 1.0]), "of": {np.int64(1): (2, None)}})
        {'f1': [0.5, 1.0], 'of': {'1': (2, None)}}
    """
    if _is_json(value):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, Tensor):
        return as_json(value.detach().tolist())
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(inner) for inner in value]
    return str(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return False
    return True
