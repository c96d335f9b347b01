"""The statistics of tensors: counts, extremes, sums, and counts in fixed buckets."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import BUCKET_COUNT
from tbtrainer.statistics.counters import zeros
from tbtrainer.statistics.devices import moved


@dataclass(frozen=True)
class TensorStatistics:
    """What one pass over some tensors found. Each row is one tensor or a group of tensors.

    Attributes:
        count: Elements, finite or not. int64, shape (rows,).
        zeros: Elements equal to zero. int64, shape (rows,).
        nonfinite: NaN and infinities. int64, shape (rows,).
        sum: Sum of the finite elements. float64, shape (rows,).
        sum_of_squares: Sum of the squares of the finite elements. float64, shape (rows,).
        minimum: Smallest finite element, +inf if there is none. float64, shape (rows,).
        maximum: Largest finite element, -inf if there is none. float64, shape (rows,).
        buckets: Finite elements per bucket of `BUCKET_EDGES`. int64; in a snapshot int32 where it
            suffices. Shape (rows, buckets).
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
    def empty(
        cls, rows: int, device: torch.device, buckets: Tensor | None = None
    ) -> "TensorStatistics":
        """Returns statistics of `rows` rows without any element.

        Args:
            rows: Number of rows.
            device: Device of the statistics.
            buckets: Counters that are 0, to be used for `buckets`; `None` allocates them.
        """

        def filled(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((rows,), value, dtype=dtype, device=device)

        return cls(
            count=filled(0, torch.int64),
            zeros=filled(0, torch.int64),
            nonfinite=filled(0, torch.int64),
            sum=filled(0, torch.float64),
            sum_of_squares=filled(0, torch.float64),
            minimum=filled(torch.inf, torch.float64),
            maximum=filled(-torch.inf, torch.float64),
            buckets=zeros((rows, BUCKET_COUNT), torch.int64, device)
            if buckets is None
            else buckets,
        )

    def to(self, device: torch.device) -> "TensorStatistics":
        """Returns the statistics on another device, or themselves if they are on it."""
        if self.buckets.device == device:
            return self
        return TensorStatistics(
            **{f.name: moved(getattr(self, f.name), device) for f in fields(self)}
        )

    def add_rows(self, index: Tensor, other: "TensorStatistics") -> None:
        """Adds rows to rows of these statistics, in place.

        Args:
            index: The row that each row of `other` is added to. int64, shape (rows of `other`,).
            other: Statistics on the same device.
        """
        for f in fields(self):
            mine, added = getattr(self, f.name), getattr(other, f.name)
            if f.name == "minimum":
                mine.scatter_reduce_(0, index, added, "amin")
            elif f.name == "maximum":
                mine.scatter_reduce_(0, index, added, "amax")
            else:
                mine.index_add_(0, index, added.to(mine.dtype))

    def clear(self) -> None:
        """Takes all elements out again, in place."""
        for f in fields(self):
            ends = {"minimum": torch.inf, "maximum": -torch.inf}
            getattr(self, f.name).fill_(ends.get(f.name, 0))
