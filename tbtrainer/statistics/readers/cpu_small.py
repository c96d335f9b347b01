"""Many small tensors in main memory at once: one run of array operations instead of one each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_OF_KEY,
    KEY_BITS,
    LINEAR_BUCKET_COUNT,
    ZERO_BUCKET,
)
from tbtrainer.statistics.readers.pieces import pieces
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Elements. Below this the calls for one tensor cost more than its memory does.
SMALL_MAX_ELEMENTS = 16_384
# What bounds the memory of a batch.
_BATCH_ELEMENTS = 65_536

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


# Infinities and what is beyond float64 are counted, and nothing to warn of.
@np.errstate(all="ignore")
def measure_into(
    found: TensorStatistics, rows: Sequence[int], tensors: Sequence[Tensor], scale: float | None
) -> None:
    """Fills rows of `found` with the statistics of small CPU tensors.

    Args:
        found: Statistics on the CPU, nothing in these rows yet.
        rows: The row of each tensor, every one once.
        tensors: Not empty, of any dtype and strides.
        scale: What every element is divided by first.
    """
    for batch in _batches(rows, tensors, scale):
        sizes, begins, values = batch.sizes, batch.begins, batch.values
        highest, lowest = values, values
        finite = None if np.isfinite(values.sum()) else np.isfinite(values)
        if finite is not None:
            lowest, highest = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
            values = np.where(finite, values, 0.0)
            found.nonfinite.numpy()[batch.rows] = np.add.reduceat(~finite, begins, dtype=np.int64)
        found.count.numpy()[batch.rows] = sizes
        found.sum.numpy()[batch.rows] = np.add.reduceat(values, begins)
        found.minimum.numpy()[batch.rows] = np.minimum.reduceat(lowest, begins)
        found.maximum.numpy()[batch.rows] = np.maximum.reduceat(highest, begins)
        buckets = _buckets_of(values)
        zero = values == 0
        if zero.any():
            buckets[zero] = ZERO_BUCKET
            counted = zero if finite is None else zero & finite
            found.zeros.numpy()[batch.rows] = np.add.reduceat(counted, begins, dtype=np.int64)
        _count(found.buckets, batch, buckets, finite)
        found.sum_of_squares.numpy()[batch.rows] = np.add.reduceat(values * values, begins)


@np.errstate(all="ignore")
def linear_into(
    counts: Tensor,
    tensors: Sequence[Tensor],
    minimum: Floats,
    maximum: Floats,
    scale: float | None,
) -> None:
    """Adds to `counts` the elements in equal buckets between each tensor's given ends.

    Args:
        counts: int64, shape (tensors, LINEAR_BUCKET_COUNT), on the CPU.
        tensors: Not empty CPU tensors.
        minimum: float64, shape (tensors,).
        maximum: float64, shape (tensors,).
        scale: What every element is divided by first.
    """
    # Half of everything, so that no difference of two float64 is beyond float64.
    least, greatest = minimum / 2, maximum / 2
    for batch in _batches(range(len(tensors)), tensors, scale):
        low, high = least[batch.rows], greatest[batch.rows]
        width = np.where(high > low, (high - low) / LINEAR_BUCKET_COUNT, 1.0)
        width[width == 0] = 1.0
        values = batch.values / 2
        finite = None if np.isfinite(values.sum()) else np.isfinite(values)
        if finite is not None:
            values = np.where(finite, values, 0.0)
        values -= np.repeat(low, batch.sizes)
        values /= np.repeat(width, batch.sizes)
        index = values.clip(0, LINEAR_BUCKET_COUNT - 1, out=values).astype(np.int64)
        _count(counts, batch, index, finite)


@dataclass(frozen=True)
class _Batch:
    """Elements of some tensors, one tensor after another.

    Attributes:
        rows: The row of each tensor. int64, shape (tensors,).
        sizes: Elements of each tensor, at least one. int64, shape (tensors,).
        values: float64, shape (elements,). It may be changed.
    """

    rows: Integers
    sizes: Integers
    values: Floats

    @property
    def begins(self) -> Integers:
        """Where each tensor begins. int64, shape (tensors,)."""
        begins: Integers = np.cumsum(self.sizes) - self.sizes
        return begins


def _batches(
    rows: Sequence[int], tensors: Sequence[Tensor], scale: float | None
) -> Iterator[_Batch]:
    # `torch.cat` converts a mixture to one dtype that may not hold all values, so it gets none.
    by_dtype: dict[torch.dtype, list[tuple[int, Tensor]]] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        by_dtype.setdefault(tensor.dtype, []).append((row, tensor.detach()))
    for chosen in by_dtype.values():
        batch: list[tuple[int, Tensor]] = []
        elements = 0
        for row, tensor in chosen:
            parts = (
                (tensor,)
                if tensor.numel() <= _BATCH_ELEMENTS
                else pieces(tensor, _BATCH_ELEMENTS, _BATCH_ELEMENTS)
            )
            for part in parts:
                size = part.numel()
                if elements + size > _BATCH_ELEMENTS:
                    yield _joined(batch, scale)
                    batch, elements = [], 0
                batch.append((row, part))
                elements += size
        yield _joined(batch, scale)


def _joined(batch: list[tuple[int, Tensor]], scale: float | None) -> _Batch:
    joined = torch.cat([part.reshape(-1) for _, part in batch])
    values = joined.to(torch.float64).numpy()
    if scale is not None:
        values = values / scale
    rows, sizes = np.array([(row, part.numel()) for row, part in batch]).T
    return _Batch(rows, sizes, values)


def _buckets_of(values: Floats) -> Integers:
    """The fixed bucket of every finite element; a zero's is that of the smallest magnitudes."""
    single = np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
    keys = single.view(np.uint32) >> np.uint32(32 - KEY_BITS)
    buckets: Integers = BUCKET_OF_KEY[keys]
    return buckets


def _count(
    counts: Tensor, batch: _Batch, buckets: Integers, finite: NDArray[np.bool_] | None
) -> None:
    """Adds the elements of a batch to the buckets of their rows.

    Only the buckets that are filled are touched: with two thousand of them in a row, a table of the
    batch to be added would be the larger part of the work.
    """
    buckets += np.repeat(batch.rows * counts.shape[1], batch.sizes)
    if finite is not None:
        buckets = buckets[finite]
    places = torch.from_numpy(buckets)
    counts.view(-1).scatter_add_(0, places, torch.ones_like(places))
