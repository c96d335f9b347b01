"""The protocol of the readers."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tbtrainer.statistics.tensor_statistics import TensorStatistics

# What most readers count in.
INT64_COUNTERS: tuple[torch.dtype, ...] = (torch.int64,)


class Reader(Protocol):
    """Reads the elements of tensors of one device, and counts them.

    All readers find equal counts and equal extremes. Their sums differ by rounding only.

    Attributes:
        name: Name of the technique, for messages and tests.
        counter_dtypes: The dtypes of the counters that it can add to.
    """

    name: str
    counter_dtypes: tuple[torch.dtype, ...]

    def supports(self, tensor: Tensor) -> bool:
        """Returns whether this reader can read a measurable tensor of its device."""
        ...

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`.

        Args:
            out: The rows, on the `statistics_device` of the tensors' device.
            rows: The row of each tensor; several tensors may share a row.
            tensors: Supported tensors on one device, none of them empty.
            loss_scale: Loss scale that every element is divided by, a scalar tensor.
        """
        ...

    def linear_into(
        self,
        out: Tensor,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
    ) -> None:
        """Adds to `out` the elements in equal buckets between the ends of each row.

        Finite elements outside of the ends are counted in the first or in the last bucket.

        Args:
            out: Counters, shape (rows, LINEAR_BUCKET_COUNT), on the `statistics_device` of the
                tensors' device.
            rows: See `measure_into`.
            tensors: See `measure_into`.
            minimum: Lower end of each row of `out`. float64, shape (rows,), on the same device.
            maximum: Upper end of each row of `out`. float64, shape (rows,), on the same device.
            loss_scale: See `measure_into`.
        """
        ...


def check_counters(counters: Tensor, dtypes: tuple[torch.dtype, ...] = INT64_COUNTERS) -> None:
    """Raises an error if compiled code must not add to counters, to which it has but an address.

    Raises:
        TypeError: They have another dtype, or are not in one piece. The code would write elsewhere.
    """
    if counters.dtype not in dtypes or not counters.is_contiguous():
        raise TypeError(
            f"counters of dtype {counters.dtype} and strides {counters.stride()} cannot be written "
            f"by compiled code: they have to be {' or '.join(map(str, dtypes))} and contiguous"
        )
