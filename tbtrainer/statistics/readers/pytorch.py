"""Reads tensors on an accelerator with PyTorch operations for which the host never waits.

Three things are avoided because the host would wait for them. `bincount` needs the largest value on
the host. Indexing with a mask needs the size of the result on the host. Using a value of a tensor
in Python needs that value on the host.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_OF_KEY,
    KEY_BITS,
    KEY_COUNT,
    LINEAR_BUCKET_COUNT,
    ZERO_BUCKET,
)
from tbtrainer.statistics.devices import moved
from tbtrainer.statistics.readers.batches import Batch, batches
from tbtrainer.statistics.readers.pieces import pieces
from tbtrainer.statistics.readers.reader import INT64_COUNTERS
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Most elements read at a time, which bounds the memory of intermediate results.
CHUNK = 2**21
# Most elements of a tensor that is read together with others in a batch.
SMALL_MAX_ELEMENTS = 2**14

_FLOAT32_MAX = torch.finfo(torch.float32).max
_bucket_tables: dict[torch.device, Tensor] = {}


class PytorchReader:
    """Reads tensors on an accelerator with PyTorch operations for which the host never waits."""

    name = "PyTorch"
    counter_dtypes = INT64_COUNTERS

    def supports(self, tensor: Tensor) -> bool:
        """Returns True: on a device with float64, every measurable tensor is supported."""
        return True

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        small = [at for at, tensor in enumerate(tensors) if tensor.numel() <= SMALL_MAX_ELEMENTS]
        for batch in batches([rows[at] for at in small], [tensors[at] for at in small], CHUNK):
            _add_batch(out, batch, loss_scale)
        for row, tensor in zip(rows, tensors, strict=True):
            if tensor.numel() > SMALL_MAX_ELEMENTS:
                for chunk in pieces(tensor.detach(), CHUNK, CHUNK):
                    _add_chunk(out, row, chunk.reshape(-1), loss_scale)

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
        low, high = minimum / 2, maximum / 2
        width = (high - low) / LINEAR_BUCKET_COUNT
        width = width.where(width > 0, 1.0)
        for batch in batches(rows, tensors, CHUNK):
            owners = _owners(batch)
            values = _exact(batch.values, loss_scale).to(torch.float64) / 2
            finite = torch.isfinite(values)
            index = (values.where(finite, 0.0) - low[owners]) / width[owners]
            # The extremes of a row without a finite element are infinite.
            index = index.nan_to_num(0.0).clamp_(0, LINEAR_BUCKET_COUNT - 1).to(torch.int64)
            places = owners * LINEAR_BUCKET_COUNT + index
            out.view(-1).scatter_add_(0, places, finite.to(torch.int64))


def _beside(numbers: list[int], values: Tensor) -> Tensor:
    """Copies integers to the device of `values`. int64, shape (numbers,)."""
    return moved(torch.tensor(numbers, dtype=torch.int64, device="cpu"), values.device)


def _owners(batch: Batch) -> Tensor:
    """Returns the row of each element of a batch. int64, shape (elements,)."""
    return torch.repeat_interleave(
        _beside(batch.rows, batch.values),
        _beside(batch.sizes, batch.values),
        output_size=batch.values.numel(),
    )


def _add_batch(out: TensorStatistics, batch: Batch, loss_scale: Tensor | None) -> None:
    rows, sizes = (_beside(numbers, batch.values) for numbers in (batch.rows, batch.sizes))
    owners = _owners(batch)
    exact = _exact(batch.values, loss_scale)
    finite, zeros = torch.isfinite(exact), exact == 0
    counted = exact.where(finite, 0.0).to(torch.float64)
    out.count.scatter_add_(0, rows, sizes)
    out.zeros.scatter_add_(0, owners, zeros.to(torch.int64))
    out.nonfinite.scatter_add_(0, owners, (~finite).to(torch.int64))
    out.sum.scatter_add_(0, owners, counted)
    out.sum_of_squares.scatter_add_(0, owners, counted.square())
    lowest, highest = (counted.where(finite, end) for end in (torch.inf, -torch.inf))
    out.minimum.scatter_reduce_(0, owners, lowest, "amin")
    out.maximum.scatter_reduce_(0, owners, highest, "amax")
    _count_buckets(out.buckets, owners, exact, finite, zeros)


def _add_chunk(out: TensorStatistics, row: int, chunk: Tensor, loss_scale: Tensor | None) -> None:
    exact = _exact(chunk, loss_scale)
    finite, zeros = torch.isfinite(exact), exact == 0
    counted = exact.where(finite, 0.0)
    out.count[row] += chunk.numel()
    out.zeros[row] += zeros.sum()
    out.nonfinite[row] += (~finite).sum()
    out.sum[row] += counted.sum(dtype=torch.float64)
    out.sum_of_squares[row] += counted.to(torch.float64).square().sum()
    out.minimum[row] = torch.minimum(out.minimum[row], exact.where(finite, torch.inf).min())
    out.maximum[row] = torch.maximum(out.maximum[row], exact.where(finite, -torch.inf).max())
    _count_buckets(out.buckets, row, exact, finite, zeros)


def _count_buckets(
    buckets: Tensor, owners: Tensor | int, exact: Tensor, finite: Tensor, zeros: Tensor
) -> None:
    """Adds the finite elements to the fixed buckets of their rows."""
    single = exact.where(finite, 0.0).clamp_(-_FLOAT32_MAX, _FLOAT32_MAX).to(torch.float32)
    keys = (single.view(torch.int32) >> (32 - KEY_BITS)) & (KEY_COUNT - 1)
    bucket = _bucket_table(exact.device)[keys.to(torch.int64)].where(~zeros, ZERO_BUCKET)
    places = bucket + owners * buckets.shape[1]
    buckets.view(-1).scatter_add_(0, places, finite.to(torch.int64))


def _exact(chunk: Tensor, loss_scale: Tensor | None) -> Tensor:
    """Returns the elements in float32 or float64, divided by the loss scale if there is one."""
    narrow = chunk.is_floating_point() and chunk.dtype != torch.float64
    exact = chunk.to(torch.float32 if narrow and loss_scale is None else torch.float64)
    return exact if loss_scale is None else exact / moved(loss_scale, exact.device)


def _bucket_table(device: torch.device) -> Tensor:
    if device not in _bucket_tables:
        _bucket_tables[device] = moved(torch.from_numpy(BUCKET_OF_KEY), device)
    return _bucket_tables[device]
