"""Rows of all ranks into rows of the whole: the collectives of a snapshot.

Their sizes depend on the number of rows alone, so every rank sends as much as every other,
whatever part of the tensors it holds.
"""

from dataclasses import fields, replace

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.statistics import TensorStatistics

_ADDED = [f.name for f in fields(TensorStatistics) if f.name not in ("minimum", "maximum")]


def reduce_extremes(
    minimum: Tensor, maximum: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Finds the extremes over all ranks, in one MAX collective.

    Args:
        minimum: Least element of this rank's parts, +inf without any. float64, shape (rows,).
        maximum: Greatest element, -inf without any. float64, shape (rows,).
        group: The ranks; `None` for all.

    Returns:
        Minimum and maximum of the whole tensors, on every rank.
    """
    packed = torch.cat([-minimum, maximum])
    dist.all_reduce(packed, dist.ReduceOp.MAX, group)
    negative_minimum, greatest = packed.split(minimum.numel())
    return -negative_minimum, greatest


def reduce_counts(
    statistics: TensorStatistics,
    linear: Tensor,
    group: dist.ProcessGroup | None,
    buffer: Tensor | None = None,
) -> tuple[TensorStatistics, Tensor]:
    """Adds counts and sums over all ranks, in one SUM collective.

    All travel as float64, which is exact for counts below 2**53.

    Args:
        statistics: Of this rank's parts. Minimum and maximum are kept as they are.
        linear: Counts of the linear pass, int64, shape (small tensors, linear buckets).
        group: The ranks; `None` for all.
        buffer: Where the numbers are put together, so that nothing need be allocated on the way to
            the collective: of `count_buffer`.

    Returns:
        Statistics and linear counts of the whole tensors on world rank zero; on other ranks
        numbers without a meaning.
    """
    parts = [getattr(statistics, name) for name in _ADDED] + [linear]
    packed = count_buffer(statistics, linear) if buffer is None else buffer
    places = packed.split([part.numel() for part in parts])
    for place, part in zip(places, parts, strict=True):
        place.copy_(part.reshape(-1))
    dist.reduce(packed, 0, dist.ReduceOp.SUM, group)
    *sums, linear_sum = (
        # Copies: the buffer is used again.
        place.view(part.shape).to(part.dtype, copy=True)
        for place, part in zip(places, parts, strict=True)
    )
    return replace(statistics, **dict(zip(_ADDED, sums, strict=True))), linear_sum


def count_buffer(statistics: TensorStatistics, linear: Tensor) -> Tensor:
    """A buffer for `reduce_counts` of statistics and linear counts of these shapes."""
    parts = [getattr(statistics, name) for name in _ADDED] + [linear]
    size = sum(part.numel() for part in parts)
    return torch.empty(size, dtype=torch.float64, device=linear.device)


def reduce_sum(values: Tensor) -> None:
    """Adds a tensor of one size over all ranks, in place, in one SUM collective.

    Nothing is allocated: a rank without memory left must still take part.

    Args:
        values: Contiguous, of any shape, the same on every rank. Replaced by the sum on every rank.
    """
    dist.all_reduce(values, dist.ReduceOp.SUM)
