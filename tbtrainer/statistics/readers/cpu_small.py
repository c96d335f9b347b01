"""Reads small tensors in main memory, many of them with each array operation."""

from collections.abc import Sequence

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
from tbtrainer.statistics.readers.batches import Batch, batches
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Most elements of a small tensor. Up to this size, calls cost more than reading the memory.
SMALL_MAX_ELEMENTS = 16_384
# Most elements of a batch, which bounds its memory.
_BATCH_ELEMENTS = 65_536

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class SmallCpuReader:
    """Joins CPU tensors into batches, and reduces each batch tensor by tensor."""

    name = "NumPy, small tensors"

    def supports(self, tensor: Tensor) -> bool:
        """Returns whether joining the tensor with others is faster than reading it alone."""
        return tensor.numel() <= SMALL_MAX_ELEMENTS

    # NumPy need not warn of infinities or of sums that overflow float64.
    @np.errstate(all="ignore")
    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        for batch in batches(rows, tensors, _BATCH_ELEMENTS):
            at, sizes = np.array(batch.rows), np.array(batch.sizes)
            begins = np.cumsum(sizes) - sizes
            values = _exact(batch, loss_scale)
            highest, lowest = values, values
            finite = None if np.isfinite(values.sum()) else np.isfinite(values)
            if finite is not None:
                lowest, highest = (
                    np.where(finite, values, np.inf),
                    np.where(finite, values, -np.inf),
                )
                values = np.where(finite, values, 0.0)
                np.add.at(
                    out.nonfinite.numpy(), at, np.add.reduceat(~finite, begins, dtype=np.int64)
                )
            # `ufunc.at` is needed because tensors of one batch may share a row.
            np.add.at(out.count.numpy(), at, sizes)
            np.add.at(out.sum.numpy(), at, np.add.reduceat(values, begins))
            np.minimum.at(out.minimum.numpy(), at, np.minimum.reduceat(lowest, begins))
            np.maximum.at(out.maximum.numpy(), at, np.maximum.reduceat(highest, begins))
            buckets = _buckets_of(values)
            zero = values == 0
            if zero.any():
                buckets[zero] = ZERO_BUCKET
                counted = zero if finite is None else zero & finite
                np.add.at(out.zeros.numpy(), at, np.add.reduceat(counted, begins, dtype=np.int64))
            _count(out.buckets, at, sizes, buckets, finite)
            np.add.at(out.sum_of_squares.numpy(), at, np.add.reduceat(values * values, begins))

    @np.errstate(all="ignore")
    def linear_into(
        self,
        out: Tensor,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
    ) -> None:
        """Adds to `out` the elements in equal buckets between the ends of each row."""
        # Halves are used because the difference of two float64 may overflow.
        low, high = minimum.numpy() / 2, maximum.numpy() / 2
        width = np.where(high > low, (high - low) / LINEAR_BUCKET_COUNT, 1.0)
        width[width == 0] = 1.0
        for batch in batches(rows, tensors, _BATCH_ELEMENTS):
            at, sizes = np.array(batch.rows), np.array(batch.sizes)
            values = _exact(batch, loss_scale) / 2
            finite = None if np.isfinite(values.sum()) else np.isfinite(values)
            if finite is not None:
                values = np.where(finite, values, 0.0)
            values -= np.repeat(low[at], sizes)
            values /= np.repeat(width[at], sizes)
            index = values.clip(0, LINEAR_BUCKET_COUNT - 1, out=values).astype(np.int64)
            _count(out, at, sizes, index, finite)


def _exact(batch: Batch, loss_scale: Tensor | None) -> Floats:
    """Returns the elements of a batch in float64, divided by the loss scale."""
    values: Floats = batch.values.to(torch.float64).numpy()
    return values if loss_scale is None else values / loss_scale.item()


def _buckets_of(values: Floats) -> Integers:
    """Returns the fixed bucket of every finite element; for zeros, that of the smallest numbers."""
    single = np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
    keys = single.view(np.uint32) >> np.uint32(32 - KEY_BITS)
    buckets: Integers = BUCKET_OF_KEY[keys]
    return buckets


def _count(
    counts: Tensor,
    rows: Integers,
    sizes: Integers,
    buckets: Integers,
    finite: NDArray[np.bool_] | None,
) -> None:
    """Adds the elements of a batch to the buckets of their rows.

    Only the filled buckets are written. A row has two thousand buckets, so adding all buckets of a
    batch would take longer than reading its elements.
    """
    buckets += np.repeat(rows * counts.shape[1], sizes)
    if finite is not None:
        buckets = buckets[finite]
    places = torch.from_numpy(buckets)
    counts.view(-1).scatter_add_(0, places, torch.ones_like(places))
