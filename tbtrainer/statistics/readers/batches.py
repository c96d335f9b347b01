"""Joins small tensors into batches, so that one call reads many of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.statistics.readers.pieces import pieces


@dataclass(frozen=True)
class Batch:
    """Elements of some tensors of one dtype, one tensor after another.

    Attributes:
        rows: The row of each tensor. A row may occur more than once.
        sizes: Number of elements of each tensor, at least 1.
        values: The elements as they are stored. Shape (elements,).
    """

    rows: list[int]
    sizes: list[int]
    values: Tensor


def batches(rows: Sequence[int], tensors: Sequence[Tensor], most_elements: int) -> Iterator[Batch]:
    """Joins tensors into batches.

    Args:
        rows: The row of each tensor.
        tensors: Tensors on one device, of any dtype and strides, none of them empty.
        most_elements: The most elements of a batch, which bounds its memory.

    Yields:
        Batches. Together they hold every element exactly once.
    """
    # `torch.cat` converts different dtypes to a common one, which may not hold all values exactly.
    by_dtype: dict[torch.dtype, list[tuple[int, Tensor]]] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        by_dtype.setdefault(tensor.dtype, []).append((row, tensor.detach()))
    for same_dtype in by_dtype.values():
        batch: list[tuple[int, Tensor]] = []
        elements = 0
        for row, part in _cut(same_dtype, most_elements):
            if elements + part.numel() > most_elements:
                yield _joined(batch)
                batch, elements = [], 0
            batch.append((row, part))
            elements += part.numel()
        yield _joined(batch)


def _cut(tensors: Sequence[tuple[int, Tensor]], most_elements: int) -> Iterator[tuple[int, Tensor]]:
    for row, tensor in tensors:
        if tensor.numel() <= most_elements:
            yield row, tensor
        else:
            for piece in pieces(tensor, most_elements, most_elements):
                yield row, piece


def _joined(batch: list[tuple[int, Tensor]]) -> Batch:
    flat = [part.reshape(-1) for _, part in batch]
    return Batch([row for row, _ in batch], [part.numel() for part in flat], torch.cat(flat))
