"""Which examples of an evaluation are kept, within a bound, without waiting for the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What one panel may keep of an evaluation, of examples and totals each.
MOST_BYTES = 2_000_000
# A batch has at most this many examples for their numbers to be unique.
_PER_BATCH = 2**24


class Sample:
    """The examples that one panel keeps of one evaluation on this rank.

    Without a priority these are the examples with the lowest hashes of their numbers: a uniform
    sample, and the same at each evaluation of the same data. The host knows it in advance. With a
    priority they are chosen on the device, and the host does not wait for them.

    Args:
        most: The most examples.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tensors: dict[str, Tensor] = {}
        # Where the values of `_order` are on the device, they are minus the priorities.
        self._order: Tensor | NDArray[np.float64] | None = None
        self._numbers: Tensor | NDArray[np.int64] | None = None

    def add(
        self, examples: Mapping[str, Tensor], priority: Tensor | None, batch: int, rank: int
    ) -> None:
        """Adds the examples of a batch, and keeps no more than the bound allows.

        Args:
            examples: Tensors whose first dimensions are equal.
            priority: Shape (examples,); `None` for the sample. Always given or never.
            batch: Number of the batch on this rank.
            rank: This rank.

        Raises:
            ValueError: The shapes do not fit each other, or those of earlier batches.
        """
        size = _size_of(examples, priority)
        if size == 0:
            return
        first = (rank * 2**31 + batch) * _PER_BATCH
        numbers = np.arange(first, first + size, dtype=np.int64)
        if priority is None:
            self._add_sampled(examples, numbers)
        else:
            self._add_ranked(examples, priority, numbers)

    def _add_sampled(self, examples: Mapping[str, Tensor], numbers: NDArray[np.int64]) -> None:
        order = hashes(numbers)
        if self._order is not None:
            assert isinstance(self._order, np.ndarray) and isinstance(self._numbers, np.ndarray)
            worst = self._order.max() if len(self._order) >= self._most else np.inf
            new = np.flatnonzero(order < worst)
            if len(new) == 0:
                return
            if len(new) < len(order):
                examples = {name: taken(tensor, new) for name, tensor in examples.items()}
            order = np.concatenate([self._order, order[new]])
            numbers = np.concatenate([self._numbers, numbers[new]])
        tensors = self._joined(examples)
        most = self._bounded(tensors)
        if len(order) > most:
            kept = np.sort(np.argpartition(order, most - 1)[:most])
            tensors = {name: taken(tensor, kept) for name, tensor in tensors.items()}
            order, numbers = order[kept], numbers[kept]
        self._tensors, self._order, self._numbers = tensors, order, numbers

    def _add_ranked(
        self, examples: Mapping[str, Tensor], priority: Tensor, numbers: NDArray[np.int64]
    ) -> None:
        order = -priority.detach().to(torch.float32)
        order = torch.where(order.isnan(), torch.inf, order)
        places = on_device(numbers, order.device)
        if self._order is not None:
            assert isinstance(self._order, Tensor) and isinstance(self._numbers, Tensor)
            order = torch.cat([self._order, order])
            places = torch.cat([self._numbers, places])
        tensors = self._joined(examples)
        most = self._bounded(tensors)
        if len(order) > most:
            # Stable, so that of equal ones the earlier stays.
            kept = torch.sort(order, stable=True).indices[:most]
            tensors = {name: tensor.index_select(0, kept) for name, tensor in tensors.items()}
            order, places = order[kept], places[kept]
        self._tensors, self._order, self._numbers = tensors, order, places

    def _joined(self, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what is kept and new examples in one tensor per name."""
        if self._order is None:
            # Copies, because the tensors are the evaluation's own.
            return {name: tensor.detach().clone() for name, tensor in examples.items()}
        if set(examples) != set(self._tensors):
            raise ValueError(
                f"a panel kept {sorted(self._tensors)} of earlier batches and {sorted(examples)} "
                "of this one; keep the same of each batch."
            )
        return {
            name: torch.cat(equally_wide(self._tensors[name], tensor.detach()))
            for name, tensor in examples.items()
        }

    def _bounded(self, tensors: Mapping[str, Tensor]) -> int:
        """Returns how many examples of this size may be kept: at least one."""
        row = sum(tensor[:1].numel() * tensor.element_size() for tensor in tensors.values())
        return max(1, min(self._most, MOST_BYTES // max(row, 1)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what is kept, with the columns `ORDER` and `NUMBER`. Waits for the device."""
        if self._order is None:
            return {}
        found = {name: to_array(tensor) for name, tensor in self._tensors.items()}
        order, numbers = self._order, self._numbers
        found[ORDER] = to_array(order) if isinstance(order, Tensor) else order
        found[NUMBER] = to_array(numbers) if isinstance(numbers, Tensor) else numbers  # type: ignore[assignment]
        if isinstance(order, Tensor):
            finite = np.isfinite(found[ORDER])
            found = {name: array[finite] for name, array in found.items()}
        return found


# Columns beside those of the panel: the order in which examples are preferred, and their numbers.
ORDER, NUMBER = "/order", "/number"


def joined(parts: list[dict[str, NDArray[Any]]], most: int) -> dict[str, NDArray[Any]]:
    """Returns the preferred examples of several ranks, at most `most`, within `MOST_BYTES`.

    Args:
        parts: What `Sample.arrays` returned on each rank that has examples.
        most: The most examples.
    """
    if not parts:
        return {}
    columns = {
        name: np.concatenate(_equally_wide_arrays([part[name] for part in parts]))
        for name in parts[0]
    }
    row = sum(column[:1].nbytes for column in columns.values())
    most = max(1, min(most, MOST_BYTES // max(row, 1)))
    preferred = np.lexsort((columns[NUMBER], columns[ORDER]))[:most]
    return {name: column[preferred] for name, column in columns.items()}


def hashes(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns for each number one of 2**53 values, as good as random.

    The function is the finalizer of splitmix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014).
    """
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64)


def taken(tensor: Tensor, rows: NDArray[Any]) -> Tensor:
    """Returns some rows of a tensor, whose numbers the host knows, on the tensor's device."""
    return tensor.index_select(0, on_device(rows, tensor.device))


def on_device(numbers: NDArray[Any], device: torch.device) -> Tensor:
    """Returns whole numbers as a tensor on a device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Returns a tensor as an array in main memory, bfloat16 as float32. Waits for the device."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.to(torch.float32)
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def equally_wide(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two tensors with zeros at the end of the second dimension of the narrower one."""
    width = max(first.shape[1:2] + second.shape[1:2], default=0)
    return _widened(first, width), _widened(second, width)


def _widened(tensor: Tensor, width: int) -> Tensor:
    if tensor.dim() < 2 or tensor.shape[1] == width:
        return tensor
    shape = (tensor.shape[0], width - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=1)


def _equally_wide_arrays(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    width = max((array.shape[1] for array in arrays if array.ndim > 1), default=0)
    return [
        np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))
        if array.ndim > 1
        else array
        for array in arrays
    ]


def _size_of(examples: Mapping[str, Tensor], priority: Tensor | None) -> int:
    tensors = [*examples.values(), *([] if priority is None else [priority])]
    if any(tensor.dim() == 0 for tensor in tensors) or len({len(t) for t in tensors}) > 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in examples.items()}
        raise ValueError(
            f"a panel kept tensors of the shapes {shapes}; the first dimension of all has to be "
            "the number of examples of the batch."
        )
    return len(tensors[0]) if tensors else 0
