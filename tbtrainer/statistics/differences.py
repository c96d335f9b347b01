"""The differences between tensors and copies of them that were made earlier.

In float32 and float64 the differences replace the copies. In other dtypes they would be rounded.
They are computed in float32 some at a time, so that they never exist together: beside the copies
they take two times `BATCH` elements.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.devices import moved
from tbtrainer.statistics.measure import (
    measure,
    measure_into,
    measure_linear,
    measure_linear_into,
)
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.readers.pieces import order_of_memory
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Differences that are measured together. In main memory 4 MiB of float32 stay in a cache. On an
# accelerator more of them keep the number of launches small; 128 MiB of float32.
BATCH = 2**20
ACCELERATOR_BATCH = 2**25
# Differences of these dtypes are as exact as those of float32.
_IN_PLACE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class TensorCopies:
    """Copies of some tensors, with their elements in the order of the memory of the original.

    Attributes:
        flat: The copy of each tensor, of the same dtype and on the same device, one-dimensional;
            `None` where there was no tensor. Copies of float32 and float64 are negated, so that
            adding the tensor makes them the difference.
        orders: The order of the dimensions of each tensor in memory.
    """

    flat: list[Tensor | None]
    orders: list[list[int]]

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None]) -> "TensorCopies":
        """Copies tensors, without waiting for an accelerator.

        Args:
            tensors: Strided tensors of any shape, strides and dtype, on any devices.
        """
        orders = [[] if tensor is None else order_of_memory(tensor) for tensor in tensors]
        found = {
            place: tensor.permute(order).reshape(-1)
            for place, (tensor, order) in enumerate(zip(tensors, orders, strict=True))
            if tensor is not None
        }
        flat: list[Tensor | None] = [None] * len(tensors)
        by_kind: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, tensor in found.items():
            by_kind.setdefault((tensor.device, tensor.dtype), []).append(place)
        for places in by_kind.values():
            copies = _copies([found[place] for place in places])
            for place, copy in zip(places, copies, strict=True):
                flat[place] = copy
        return cls(flat, orders)


@dataclass(frozen=True)
class Differences:
    """A `Source` of the differences between tensors and earlier copies of them.

    They are computed in float32, and in float64 for tensors of float64. A difference is 0 exactly
    if the two elements are equal, whatever their dtype is. NaN differs from everything.

    Attributes:
        tensors: The tensors as they are now; `None` where there is none.
        copies: Their copies, of which differences take the place: they can be used once. A tensor
            without a copy, or of another size than it, has no elements.
    """

    tensors: Sequence[Tensor | None]
    copies: TensorCopies

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Measures all differences; see `Source`."""
        measure_into(out, self._in_place, loss_scale, backend, rows)
        for batch_rows, differences in self._batches(rows):
            own_rows, positions = _compacted(batch_rows)
            found = measure(
                differences, out.count.device, loss_scale, backend, positions, len(own_rows)
            )
            out.add_rows(_index(own_rows, out.count.device), found)

    def linear_into(
        self,
        out: Tensor,
        lines: Sequence[int | None],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Counts some of the differences in equal buckets; see `Source`."""
        chosen = [place for place, line in enumerate(lines) if line is not None]
        tensors = [self._in_place[place] for place in chosen]
        own = [line for line in lines if line is not None]
        measure_linear_into(out, tensors, minimum, maximum, loss_scale, backend, own)
        for batch_lines, differences in self._batches(lines):
            own_lines, positions = _compacted(batch_lines)
            index = _index(own_lines, out.device)
            ends = minimum[index], maximum[index]
            found = measure_linear(differences, *ends, loss_scale, backend, positions)
            out.index_add_(0, index, found.to(out.dtype))

    @cached_property
    def _in_place(self) -> list[Tensor | None]:
        """The differences that have replaced the copies; `None` for the other dtypes."""
        found: list[Tensor | None] = [None] * len(self.tensors)
        by_kind: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for place, tensor, copy in self._pairs():
            if copy.dtype in _IN_PLACE:
                found[place] = copy
                by_kind.setdefault((copy.device, copy.dtype), []).append((copy, tensor))
        for pairs in by_kind.values():
            copies, tensors = map(list, zip(*pairs, strict=True))
            torch._foreach_add_(copies, tensors)
        return found

    def _batches(self, rows: Sequence[int | None]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Computes the differences, some at a time.

        Args:
            rows: The row of each tensor; `None` if it is left out.

        Yields:
            The row of each piece of a tensor, and the differences of the piece. They are
            overwritten when the next batch is computed.
        """
        buffers = _Buffers()
        batch: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for place, new, old in self._pairs():
            row = rows[place]
            begin = 0
            while row is not None and old.dtype not in _IN_PLACE and begin < len(new):
                out = buffers.take(new, len(new) - begin)
                if out is None:
                    yield _computed(batch)
                    batch = []
                    buffers.clear()
                    continue
                end = begin + len(out)
                batch.append((row, new[begin:end], old[begin:end], out))
                begin = end
        if batch:
            yield _computed(batch)

    def _pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Returns place, tensor and copy of each tensor with a copy; both one-dimensional."""
        copies = zip(self.copies.flat, self.copies.orders, strict=True)
        for place, (tensor, (copy, order)) in enumerate(zip(self.tensors, copies, strict=True)):
            if tensor is None or copy is None or tensor.numel() != copy.numel():
                continue
            # A tensor with gaps between its elements is copied here.
            yield place, tensor.permute(order).reshape(-1), copy


class _Buffers:
    """The memory of one batch of differences in float32, one piece for each device."""

    def __init__(self) -> None:
        self._whole: dict[torch.device, Tensor] = {}
        self._used: dict[torch.device, int] = {}

    def take(self, tensor: Tensor, most: int) -> Tensor | None:
        """Returns memory for at most `most` differences of a tensor; `None` if none is left."""
        device = tensor.device
        size = BATCH if device.type == "cpu" else ACCELERATOR_BATCH
        if device not in self._whole:
            self._whole[device] = torch.empty(size, dtype=torch.float32, device=device)
        begin = self._used.get(device, 0)
        self._used[device] = min(begin + most, size)
        return self._whole[device][begin : begin + most] if begin < size else None

    def clear(self) -> None:
        """Makes all memory available again."""
        self._used = {}


def _computed(
    batch: Sequence[tuple[int, Tensor, Tensor, Tensor]],
) -> tuple[list[int], list[Tensor]]:
    """Computes the differences of a batch.

    Args:
        batch: Row, tensor, copy, and memory for the result, of each piece.

    Returns:
        The rows and the results.
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for _, new, old, out in batch:
        by_kind.setdefault((new.device, new.dtype), []).append((new, old, out))
    for pieces in by_kind.values():
        new_pieces, old_pieces, outs = map(list, zip(*pieces, strict=True))
        widened = [torch.empty_like(out) for out in outs]
        torch._foreach_copy_(widened, old_pieces)
        torch._foreach_copy_(outs, new_pieces)
        torch._foreach_sub_(outs, widened)
    return [row for row, *_ in batch], [out for *_, out in batch]


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Copies one-dimensional tensors of one dtype and device; see `TensorCopies.flat`."""
    is_negated = tensors[0].dtype in _IN_PLACE
    if tensors[0].device.type != "cpu":
        if is_negated:
            return list(torch._foreach_neg(tensors))
        copies = [torch.empty_like(tensor) for tensor in tensors]
        torch._foreach_copy_(copies, tensors)
        return copies
    # NumPy asks the system for large pages (since NumPy 1.22, on Linux), which makes the first
    # write to this memory two to three times as fast as to that of `torch.empty`.
    sizes, dtype = [tensor.numel() for tensor in tensors], tensors[0].dtype
    # One byte more, because PyTorch cannot view memory without an element as another dtype.
    memory = torch.from_numpy(np.empty(sum(sizes) * dtype.itemsize + 1, np.uint8))
    whole = memory[:-1].view(dtype)
    copies = list(whole.split(sizes))
    for tensor, copy in zip(tensors, copies, strict=True):
        if is_negated:
            torch.neg(tensor, out=copy)
        else:
            copy.copy_(tensor)
    return copies


def _compacted(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the rows that occur, and the position in them of each row of the list."""
    own_rows = sorted(set(rows))
    position = {row: at for at, row in enumerate(own_rows)}
    return own_rows, [position[row] for row in rows]


def _index(rows: list[int], device: torch.device) -> Tensor:
    return moved(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
