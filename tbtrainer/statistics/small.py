"""Many small tensors in main memory at once: one run of array operations instead of one each."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_COUNT,
    BUCKET_OF_KEY,
    KEY_BITS,
    LINEAR_BUCKET_COUNT,
    ZERO_BUCKET,
)

if TYPE_CHECKING:
    from tbtrainer.statistics.measure import TensorStatistics

# Elements. Below this the calls cost more than the memory does.
SMALL_MAX_ELEMENTS = 16_384
# What bounds the memory of a batch.
_BATCH_ELEMENTS = 131_072
_BATCH_ROWS = 128

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Floats = NDArray[np.float64]


def measure_into(
    found: "TensorStatistics", rows: Sequence[int], tensors: Sequence[Tensor], scale: float | None
) -> None:
    """Fills rows of `found` with the statistics of small CPU tensors.

    Args:
        found: Statistics on the CPU.
        rows: The row of each tensor.
        tensors: Not empty, of any dtype and strides.
        scale: What every element is divided by first.
    """
    for batch in _batches([t.numel() for t in tensors]):
        chosen = [tensors[i] for i in batch]
        _measure_batch(found, [rows[i] for i in batch], chosen, scale)


def _measure_batch(
    found: "TensorStatistics", rows: list[int], tensors: list[Tensor], scale: float | None
) -> None:
    values, sizes, begins = _joined(tensors, scale)
    finite = np.isfinite(values)
    zero = values == 0
    with np.errstate(over="ignore"):
        squares = np.square(np.where(finite, values, 0.0))
    counted = np.where(finite, values, 0.0)
    single = np.clip(counted, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
    buckets = BUCKET_OF_KEY[single.view(np.uint32) >> np.uint32(32 - KEY_BITS)]
    buckets[zero] = ZERO_BUCKET
    buckets += np.repeat(np.arange(len(sizes)) * BUCKET_COUNT, sizes)
    counts = np.bincount(buckets[finite], minlength=len(sizes) * BUCKET_COUNT)
    columns = {
        "count": sizes,
        "zeros": np.add.reduceat(zero, begins, dtype=np.int64),
        "nonfinite": sizes - np.add.reduceat(finite, begins, dtype=np.int64),
        "sum": np.add.reduceat(counted, begins),
        "sum_of_squares": np.add.reduceat(squares, begins),
        "minimum": np.minimum.reduceat(np.where(finite, values, np.inf), begins),
        "maximum": np.maximum.reduceat(np.where(finite, values, -np.inf), begins),
        "buckets": counts.reshape(len(sizes), BUCKET_COUNT),
    }
    for name, column in columns.items():
        getattr(found, name)[rows] = torch.from_numpy(column)


def linear_into(
    counts: Tensor,
    rows: Sequence[int],
    tensors: Sequence[Tensor],
    minimum: Tensor,
    maximum: Tensor,
    scale: float | None,
) -> None:
    """Fills rows of `counts` with the equal buckets between each tensor's given ends.

    Args:
        counts: int64, shape (tensors, LINEAR_BUCKET_COUNT), on the CPU.
        rows: The row of each tensor.
        tensors: Not empty CPU tensors.
        minimum: float64, shape (tensors,), on the CPU.
        maximum: float64, shape (tensors,), on the CPU.
        scale: What every element is divided by first.
    """
    for batch in _batches([t.numel() for t in tensors]):
        chosen = [rows[i] for i in batch]
        values, sizes, _ = _joined([tensors[i] for i in batch], scale)
        low, high = minimum[chosen].numpy(), maximum[chosen].numpy()
        width = np.where(high > low, (high - low) / LINEAR_BUCKET_COUNT, 1.0)
        finite = np.isfinite(values)
        offset = np.where(finite, values, 0.0) - np.repeat(low, sizes)
        index = (offset / np.repeat(width, sizes)).clip(0, LINEAR_BUCKET_COUNT - 1).astype(np.int64)
        index += np.repeat(np.arange(len(sizes)) * LINEAR_BUCKET_COUNT, sizes)
        found = np.bincount(index[finite], minlength=len(sizes) * LINEAR_BUCKET_COUNT)
        counts[chosen] = torch.from_numpy(found.reshape(len(sizes), LINEAR_BUCKET_COUNT))


def _joined(
    tensors: Sequence[Tensor], scale: float | None
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """All elements one after another in float64, the sizes, and where each tensor begins."""
    sizes = np.array([t.numel() for t in tensors])
    joined = torch.empty(int(sizes.sum()), dtype=torch.float64)
    for place, tensor in zip(joined.split(sizes.tolist()), tensors, strict=True):
        place.view(tensor.shape).copy_(tensor.detach())
    values: Floats = joined.numpy()
    if scale is not None:
        values /= scale
    return values, sizes, np.cumsum(sizes) - sizes


def _batches(sizes: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    elements = 0
    for index, size in enumerate(sizes):
        if batch and (elements + size > _BATCH_ELEMENTS or len(batch) >= _BATCH_ROWS):
            yield batch
            batch, elements = [], 0
        batch.append(index)
        elements += size
    if batch:
        yield batch
