"""Tensors in nested mappings, tuples and lists, as models take and return them."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard

from torch import Tensor


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Returns whether a value is a tensor with at least one dimension."""
    return isinstance(value, Tensor) and value.dim() > 0


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors with a dimension, depth first."""
    if is_tensor(value):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from tensors_in(inner)


def first_tensor(value: Any) -> Tensor | None:
    """Returns the first tensor with a dimension, depth first; `None` if there is none."""
    return next(tensors_in(value), None)


def first_examples(value: Any, number: int, among: int) -> Any:
    """Returns a copy of a batch, or of a part of one, with its first examples only.

    Tensors and lists whose length is `among` have one item per example, and are cut off. Tensors
    are views, without a graph. Mappings become dictionaries. An output of a model becomes one with
    all its fields, also those without a value. All else stays as it is.

    Args:
        value: Inputs or outputs of a model.
        number: How many examples to return.
        among: How many examples the batch has.

    Raises:
        ValueError: A tensor is divided among ranks.
    """
    if is_tensor(value):
        value = _local(value.detach())
        return value[:number] if number < among == len(value) else value
    if isinstance(value, Mapping):
        items = _fields(value) if is_dataclass(value) else dict(value)
        return {key: first_examples(inner, number, among) for key, inner in items.items()}
    if isinstance(value, list):
        kept = value[:number] if number < among == len(value) else value
        return [first_examples(inner, number, among) for inner in kept]
    if isinstance(value, tuple):
        return tuple(first_examples(inner, number, among) for inner in value)
    return value


def without_values(value: Any) -> Any:
    """Returns a copy of a batch, or of a part of one, that takes no memory.

    Tensors have their shapes and dtypes, on the device "meta". Objects other than numbers, texts,
    mappings, lists and tuples become `None`: a cache holds tensors, too. So do tensors of layouts
    that "meta" does not have.
    """
    if isinstance(value, Tensor):
        try:
            return value.detach().to("meta")
        except (NotImplementedError, RuntimeError):
            return None
    if isinstance(value, Mapping):
        return {key: without_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_values(inner) for inner in value]
    if isinstance(value, tuple):
        return tuple(without_values(inner) for inner in value)
    return value if isinstance(value, str | int | float) else None


def _local(tensor: Tensor) -> Tensor:
    """Returns a tensor, of a replicated `DTensor` this rank's.

    Anything done with a divided one is a collective, which ranks that call no panel would miss.
    """
    placements = getattr(tensor, "placements", None)
    if placements is None:
        return tensor
    if not all(placement.is_replicate() for placement in placements):
        raise ValueError(f"the model returned a tensor that is divided among ranks: {placements}.")
    local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def _fields(value: Any) -> dict[str, Any]:
    """Returns the fields of a `ModelOutput`, whose `items` leave out those that are `None`."""
    return {**{f.name: getattr(value, f.name) for f in fields(value)}, **value}
