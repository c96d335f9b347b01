"""What one pass over some tensors finds: counts, extremes, sums, and counts in fixed buckets."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.buckets import BUCKET_COUNT


@dataclass(frozen=True)
class TensorStatistics:
    """What one pass over some tensors found, one row per tensor, reduced over all ranks or not yet.

    Attributes:
        count: Elements, finite or not. int64, shape (tensors,).
        zeros: Elements equal to zero. int64, shape (tensors,).
        nonfinite: NaN and infinities. int64, shape (tensors,).
        sum: Of the finite elements. float64, shape (tensors,).
        sum_of_squares: Of the finite elements. float64, shape (tensors,).
        minimum: Of the finite elements, +inf without any. float64, shape (tensors,).
        maximum: Of the finite elements, -inf without any. float64, shape (tensors,).
        buckets: Finite elements per bucket of `BUCKET_EDGES`. int64, shape (tensors, buckets).
    """

    count: Tensor
    zeros: Tensor
    nonfinite: Tensor
    sum: Tensor
    sum_of_squares: Tensor
    minimum: Tensor
    maximum: Tensor
    buckets: Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> "TensorStatistics":
        """Statistics of `rows` tensors without an element."""

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=device)

        return cls(
            count=zeros(torch.int64),
            zeros=zeros(torch.int64),
            nonfinite=zeros(torch.int64),
            sum=zeros(torch.float64),
            sum_of_squares=zeros(torch.float64),
            minimum=zeros(torch.float64) + torch.inf,
            maximum=zeros(torch.float64) - torch.inf,
            buckets=_zero_buckets(rows, device),
        )

    def to(self, device: torch.device) -> "TensorStatistics":
        """The same on another device, without waiting."""
        return TensorStatistics(
            **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        )

    def with_extremes(self, minimum: Tensor, maximum: Tensor) -> "TensorStatistics":
        """The same with other minima and maxima."""
        return replace(self, minimum=minimum, maximum=maximum)


def _zero_buckets(rows: int, device: torch.device) -> Tensor:
    shape = (rows, BUCKET_COUNT)
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.int64, device=device)
    # NumPy asks for memory that is zero already, and the many pages without a count stay untouched.
    return torch.from_numpy(np.zeros(shape, np.int64))
