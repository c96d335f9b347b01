"""Cuts tensors on a CUDA device into chunks, so that one launch of a kernel reads all of them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.buckets import ZERO_BUCKET
from tbtrainer.statistics.readers.pieces import in_order_of_memory
from tbtrainer.statistics.readers.reader import check_counters
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Most elements of a chunk, which one program or block reads.
CHUNK = 2**16

_Kind = TypeVar("_Kind", bound=Hashable)


def is_in_one_piece(tensor: Tensor) -> bool:
    """Returns whether the elements lie in memory without gaps, as they are."""
    return not tensor.is_neg() and in_order_of_memory(tensor).is_contiguous()


def chunk_tables(
    rows: Sequence[int], tensors: Sequence[Tensor], kind_of: Callable[[Tensor], _Kind]
) -> Iterator[tuple[_Kind, Tensor]]:
    """Lists the chunks of tensors, in one table for each kind of tensor.

    Args:
        rows: The row of each tensor; several tensors may share a row.
        tensors: Tensors on one device, each in one piece, none of them empty.
        kind_of: Returns the kind of a tensor. One launch reads the tensors of a kind, so they have
            the same dtype.

    Yields:
        A kind, and its table: address, number of elements and row of each chunk. int64, shape
        (chunks, 3), on the tensors' device. The host does not wait for it.
    """
    described: dict[_Kind, list[tuple[int, int, int]]] = {}
    itemsizes: dict[_Kind, int] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        kind = kind_of(tensor)
        itemsizes[kind] = tensor.dtype.itemsize
        described.setdefault(kind, []).append((tensor.data_ptr(), tensor.numel(), row))
    for kind, group in described.items():
        table = torch.from_numpy(cut(np.array(group, np.int64), itemsizes[kind]))
        if tensors[0].is_cuda:
            # The host does not wait for a copy from pinned memory.
            table = table.pin_memory().to(tensors[0].device, non_blocking=True)
        yield kind, table


def cut(described: np.ndarray, itemsize: int) -> np.ndarray:
    """Cuts tensors into chunks. Both are described by their address, elements and row."""
    chunks = -(-described[:, 1] // CHUNK)
    address, elements, row = np.repeat(described, chunks, axis=0).T
    number = np.arange(len(row)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    begin = number * CHUNK
    return np.stack([address + begin * itemsize, np.minimum(elements - begin, CHUNK), row], axis=1)


def chunks_to_measure(
    out: TensorStatistics,
    rows: Sequence[int],
    tensors: Sequence[Tensor],
    kind_of: Callable[[Tensor], _Kind],
) -> Iterator[tuple[_Kind, Tensor, Tensor, Tensor]]:
    """Lists the chunks of tensors for a launch per kind, and adds what each launch found to `out`.

    The launch itself adds to `out.buckets`, except for the bucket of zeros.

    Args:
        out: The rows. Changed after each launch.
        rows: See `chunk_tables`.
        tensors: See `chunk_tables`.
        kind_of: See `chunk_tables`.

    Yields:
        A kind, its table, and two tensors that the launch has to fill: sum, sum of squares, minimum
        and maximum of each chunk, float64, shape (chunks, 4); and elements, zeros and non-finite
        elements of each chunk, int64, shape (chunks, 3).
    """
    check_counters(out.buckets)
    for kind, table in chunk_tables(rows, tensors, kind_of):
        sums = torch.empty(len(table), 4, dtype=torch.float64, device=table.device)
        counts = torch.empty(len(table), 3, dtype=torch.int64, device=table.device)
        yield kind, table, sums, counts
        _add(out, table, sums, counts)


def _add(out: TensorStatistics, table: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Adds what was found in chunks to their rows; see `chunks_to_measure`."""
    row = table[:, 2]
    out.count.index_add_(0, row, counts[:, 0])
    out.zeros.index_add_(0, row, counts[:, 1])
    out.nonfinite.index_add_(0, row, counts[:, 2])
    out.sum.index_add_(0, row, sums[:, 0])
    out.sum_of_squares.index_add_(0, row, sums[:, 1])
    out.minimum.scatter_reduce_(0, row, sums[:, 2], "amin")
    out.maximum.scatter_reduce_(0, row, sums[:, 3], "amax")
    out.buckets[:, ZERO_BUCKET].index_add_(0, row, counts[:, 1])


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a device the current one, on which kernels are launched wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def beside(loss_scale: Tensor | None, device: torch.device) -> Tensor | None:
    """Returns the loss scale for the kernels: float32, on the device, without waiting for it."""
    if loss_scale is None:
        return None
    return loss_scale.to(device, torch.float32, non_blocking=device.type != "cpu")
