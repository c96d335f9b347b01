"""The same pass on any other device, in PyTorch operations that never wait for the device.

What would wait: `bincount`, which has to know the largest value, selecting by a mask, whose size
somebody has to know, and every value that Python looks at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_OF_KEY,
    KEY_BITS,
    KEY_COUNT,
    LINEAR_BUCKET_COUNT,
    ZERO_BUCKET,
)
from tbtrainer.statistics.readers.pieces import pieces
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Elements read at a time: what bounds the memory of the intermediate results.
CHUNK = 2**21
# Elements. Tensors up to this share the launches of a batch.
SMALL_MAX_ELEMENTS = 2**14

_FLOAT32_MAX = torch.finfo(torch.float32).max
_tables: dict[torch.device, Tensor] = {}


def measure_into(
    found: TensorStatistics, tensors: Sequence[Tensor], divisor: Tensor | None
) -> None:
    """Adds the statistics of tensors on one device to the rows of `found`, which begin empty.

    Args:
        found: One row per tensor, on the tensors' device.
        tensors: Not empty, of any strides.
        divisor: What every element is divided by first, a scalar tensor.
    """
    little = [row for row, tensor in enumerate(tensors) if tensor.numel() <= SMALL_MAX_ELEMENTS]
    for batch in _batches(little, [tensors[row] for row in little]):
        _add_batch(found, batch, divisor)
    for row, tensor in enumerate(tensors):
        if tensor.numel() > SMALL_MAX_ELEMENTS:
            for chunk in pieces(tensor.detach(), CHUNK, CHUNK):
                _add_chunk(found, row, chunk.reshape(-1), divisor)


def linear_into(
    counts: Tensor,
    tensors: Sequence[Tensor],
    minimum: Tensor,
    maximum: Tensor,
    divisor: Tensor | None,
) -> None:
    """Adds to `counts` the elements in equal buckets between each tensor's given ends.

    Args:
        counts: int64, shape (tensors, LINEAR_BUCKET_COUNT), on the tensors' device.
        tensors: Not empty, on one device.
        minimum: float64, shape (tensors,), on that device.
        maximum: float64, shape (tensors,), on that device.
        divisor: What every element is divided by first, a scalar tensor.
    """
    # Half of everything, so that no difference of two float64 is beyond float64.
    low, high = minimum / 2, maximum / 2
    width = (high - low) / LINEAR_BUCKET_COUNT
    width = width.where(width > 0, 1.0)
    for batch in _batches(range(len(tensors)), tensors):
        owners = batch.owners()
        values = _exact(batch.values, divisor).to(torch.float64) / 2
        finite = torch.isfinite(values)
        index = (values.where(finite, 0.0) - low[owners]) / width[owners]
        # A row without a finite element has no ends.
        index = index.nan_to_num(0.0).clamp_(0, LINEAR_BUCKET_COUNT - 1).to(torch.int64)
        places = owners * LINEAR_BUCKET_COUNT + index
        counts.view(-1).scatter_add_(0, places, finite.to(torch.int64))


@dataclass(frozen=True)
class _Batch:
    """Elements of some tensors of one dtype, one tensor after another.

    Attributes:
        rows: The row of each tensor.
        sizes: Elements of each tensor.
        values: Shape (elements,).
    """

    rows: list[int]
    sizes: list[int]
    values: Tensor

    def on_device(self, numbers: list[int]) -> Tensor:
        """One number per tensor. int64, shape (tensors,)."""
        return torch.tensor(numbers, dtype=torch.int64, device="cpu").to(
            self.values.device, non_blocking=True
        )

    def owners(self) -> Tensor:
        """The row of each element. int64, shape (elements,)."""
        return torch.repeat_interleave(
            self.on_device(self.rows),
            self.on_device(self.sizes),
            output_size=self.values.numel(),
        )


def _batches(rows: Sequence[int], tensors: Sequence[Tensor]) -> Iterator[_Batch]:
    # `torch.cat` converts a mixture to one dtype that may not hold all values, so it gets none.
    by_dtype: dict[torch.dtype, list[tuple[int, Tensor]]] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        by_dtype.setdefault(tensor.dtype, []).extend(
            (row, piece) for piece in pieces(tensor.detach(), CHUNK, CHUNK)
        )
    for chosen in by_dtype.values():
        batch: list[tuple[int, Tensor]] = []
        elements = 0
        for row, piece in chosen:
            if batch and elements + piece.numel() > CHUNK:
                yield _joined(batch)
                batch, elements = [], 0
            batch.append((row, piece))
            elements += piece.numel()
        yield _joined(batch)


def _joined(batch: list[tuple[int, Tensor]]) -> _Batch:
    flat = [piece.reshape(-1) for _, piece in batch]
    return _Batch([row for row, _ in batch], [part.numel() for part in flat], torch.cat(flat))


def _add_batch(found: TensorStatistics, batch: _Batch, divisor: Tensor | None) -> None:
    owners = batch.owners()
    exact = _exact(batch.values, divisor)
    finite, zeros = torch.isfinite(exact), exact == 0
    counted = exact.where(finite, 0.0).to(torch.float64)
    found.count.scatter_add_(0, batch.on_device(batch.rows), batch.on_device(batch.sizes))
    found.zeros.scatter_add_(0, owners, zeros.to(torch.int64))
    found.nonfinite.scatter_add_(0, owners, (~finite).to(torch.int64))
    found.sum.scatter_add_(0, owners, counted)
    found.sum_of_squares.scatter_add_(0, owners, counted.square())
    lowest, highest = (counted.where(finite, end) for end in (torch.inf, -torch.inf))
    found.minimum.scatter_reduce_(0, owners, lowest, "amin")
    found.maximum.scatter_reduce_(0, owners, highest, "amax")
    _count_buckets(found.buckets, owners, exact, finite, zeros)


def _add_chunk(found: TensorStatistics, row: int, chunk: Tensor, divisor: Tensor | None) -> None:
    exact = _exact(chunk, divisor)
    finite, zeros = torch.isfinite(exact), exact == 0
    counted = exact.where(finite, 0.0)
    found.count[row] += chunk.numel()
    found.zeros[row] += zeros.sum()
    found.nonfinite[row] += (~finite).sum()
    found.sum[row] += counted.sum(dtype=torch.float64)
    found.sum_of_squares[row] += counted.to(torch.float64).square().sum()
    found.minimum[row] = torch.minimum(found.minimum[row], exact.where(finite, torch.inf).min())
    found.maximum[row] = torch.maximum(found.maximum[row], exact.where(finite, -torch.inf).max())
    _count_buckets(found.buckets, row, exact, finite, zeros)


def _count_buckets(
    buckets: Tensor, owners: Tensor | int, exact: Tensor, finite: Tensor, zeros: Tensor
) -> None:
    """Adds the finite elements to the buckets of their rows."""
    single = exact.where(finite, 0.0).clamp_(-_FLOAT32_MAX, _FLOAT32_MAX).to(torch.float32)
    keys = (single.view(torch.int32) >> (32 - KEY_BITS)) & (KEY_COUNT - 1)
    bucket = _table(exact.device)[keys.to(torch.int64)].where(~zeros, ZERO_BUCKET)
    places = bucket + owners * buckets.shape[1]
    buckets.view(-1).scatter_add_(0, places, finite.to(torch.int64))


def _exact(chunk: Tensor, divisor: Tensor | None) -> Tensor:
    """The elements as they are, in float32 or float64."""
    narrow = chunk.is_floating_point() and chunk.dtype != torch.float64
    exact = chunk.to(torch.float32 if narrow and divisor is None else torch.float64)
    return exact if divisor is None else exact / divisor.to(exact.device, non_blocking=True)


def _table(device: torch.device) -> Tensor:
    if device not in _tables:
        _tables[device] = torch.from_numpy(BUCKET_OF_KEY).to(device, non_blocking=True)
    return _tables[device]
