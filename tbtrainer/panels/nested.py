"""Tensors in nested mappings, tuples and lists, as models take and return them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from torch import Tensor


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Returns whether a value is a tensor with at least one dimension."""
    return isinstance(value, Tensor) and value.dim() > 0


def first_tensor(value: Any) -> Tensor | None:
    """Returns the first tensor with a dimension, depth first; `None` if there is none."""
    if is_tensor(value):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((t for t in map(first_tensor, value) if t is not None), None)
    return None


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns a copy in which each tensor with a dimension is replaced by `change` of it.

    Mappings become dictionaries, lists and tuples become tuples. All else stays as it is.
    """
    if is_tensor(value):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return tuple(mapped(inner, change) for inner in value)
    return value
