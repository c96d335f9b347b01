"""Columns: tensors, or arrays, with one row per example."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Floating dtypes that NumPy has, too.
_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


def tensors_of(values: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Returns values that are tensors.

    Raises:
        TypeError: One of them is something else.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"a panel kept {name!r} as a {type(value).__name__}; only tensors can be kept."
            )
    return values


def shapes_of(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in values.items()}


def taken(column: Tensor, rows: NDArray[Any]) -> Tensor:
    """Returns some rows, whose numbers the host knows in ascending order, on the column's device.

    All rows are the column itself, and not a copy.
    """
    if len(rows) == len(column):
        return column
    return column.index_select(0, on_device(rows, column.device))


def on_device(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """Returns whole numbers as a tensor on a device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def joined_columns(first: Tensor, second: Tensor) -> Tensor:
    """Returns the rows of two columns, whose second dimensions may differ.

    The narrower one gets zeros at its end.
    """
    width = max(first.shape[1:2] + second.shape[1:2], default=0)
    return torch.cat([_widened(first, width), _widened(second, width)])


def _widened(column: Tensor, width: int) -> Tensor:
    if column.dim() < 2 or column.shape[1] == width:
        return column
    shape = (column.shape[0], width - column.shape[1], *column.shape[2:])
    return torch.cat([column, column.new_zeros(shape)], dim=1)


def joined_arrays(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Returns the rows of several arrays, as `joined_columns` does with tensors."""
    width = max((array.shape[1] for array in arrays if array.ndim > 1), default=0)
    return np.concatenate(
        [
            np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))
            if array.ndim > 1
            else array
            for array in arrays
        ]
    )


def joined_row_bytes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> int:
    """Returns the size of one row of all columns of both together, at least 1."""
    size = 0
    for name, column in second.items():
        # The same column, where there is no earlier one.
        other = first.get(name, column)
        row = max(column[:1].numel(), other[:1].numel())
        size += row * max(column.element_size(), other.element_size())
    return max(size, 1)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Returns a tensor in main memory, bfloat16 and smaller as float32. Waits for the device."""
    if tensor.is_floating_point() and tensor.dtype not in _OF_NUMPY:
        tensor = tensor.to(torch.float32)
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
