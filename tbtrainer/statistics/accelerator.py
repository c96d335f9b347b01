"""The same pass on any other device, in PyTorch operations that never wait for the device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import (
    BUCKET_COUNT,
    BUCKET_OF_KEY,
    KEY_BITS,
    KEY_COUNT,
    ZERO_BUCKET,
)

if TYPE_CHECKING:
    from tbtrainer.statistics.measure import TensorStatistics

# Elements read at a time: what bounds the memory of the intermediate results.
_CHUNK = 2**22

_FLOAT32_MAX = torch.finfo(torch.float32).max
_tables: dict[torch.device, Tensor] = {}


def measure_into(
    found: "TensorStatistics", tensors: Sequence[Tensor], divisor: Tensor | None
) -> None:
    """Adds the statistics of tensors on one device to the rows of `found`, which begin empty.

    Args:
        found: One row per tensor, on the tensors' device.
        tensors: Not empty, of any strides.
        divisor: What every element is divided by first, a scalar tensor.
    """
    for row, tensor in enumerate(tensors):
        found.count[row] = tensor.numel()
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            _add(found, row, chunk, divisor)


def _add(found: "TensorStatistics", row: int, chunk: Tensor, divisor: Tensor | None) -> None:
    exact = chunk.to(torch.float64) if _needs_double(chunk.dtype, divisor) else chunk.float()
    if divisor is not None:
        exact = exact / divisor.to(exact.device)
    finite = torch.isfinite(exact)
    zeros = exact == 0
    found.zeros[row] += zeros.sum()
    found.nonfinite[row] += (~finite).sum()
    found.minimum[row] = torch.minimum(found.minimum[row], exact.where(finite, torch.inf).min())
    found.maximum[row] = torch.maximum(found.maximum[row], exact.where(finite, -torch.inf).max())
    counted = exact.where(finite, 0.0)
    found.sum[row] += counted.sum(dtype=torch.float64)
    found.sum_of_squares[row] += counted.to(torch.float64).square().sum()
    single = counted.clamp(-_FLOAT32_MAX, _FLOAT32_MAX).to(torch.float32)
    keys = (single.view(torch.int32) >> (32 - KEY_BITS)) & (KEY_COUNT - 1)
    bucket = _table(exact.device)[keys.to(torch.int64)]
    bucket = bucket.where(~zeros, ZERO_BUCKET).where(finite, BUCKET_COUNT)
    # `bincount` would wait for the device to learn the largest value.
    counts = torch.zeros(BUCKET_COUNT + 1, dtype=torch.int64, device=exact.device)
    counts.scatter_add_(0, bucket, torch.ones_like(bucket))
    found.buckets[row] += counts[:BUCKET_COUNT]


def _needs_double(dtype: torch.dtype, divisor: Tensor | None) -> bool:
    return dtype == torch.float64 or not dtype.is_floating_point or divisor is not None


def _table(device: torch.device) -> Tensor:
    if device not in _tables:
        _tables[device] = torch.from_numpy(BUCKET_OF_KEY).to(device)
    return _tables[device]
