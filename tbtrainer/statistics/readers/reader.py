"""What every reader offers: a way to read the elements of tensors and count them."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from tbtrainer.statistics.tensor_statistics import TensorStatistics


class Reader(Protocol):
    """One technique of reading tensors of one device.

    All readers find the same counts and extremes, and the same sums but for rounding.

    Attributes:
        name: The technique, for messages and tests.
    """

    name: str

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
            out: Where the statistics are added, on the tensors' `statistics_device`.
            rows: The row of each tensor; several tensors may share a row.
            tensors: On one device, each with an element, and supported.
            loss_scale: What every element is divided by first, a scalar tensor.
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

        Args:
            out: int64, shape (rows, LINEAR_BUCKET_COUNT), on the tensors' `statistics_device`.
            rows: As for `measure_into`.
            tensors: As for `measure_into`.
            minimum: Lower end of each row of `out`. float64, shape (rows,), beside `out`.
            maximum: Upper end of each row of `out`. float64, shape (rows,), beside `out`.
            loss_scale: As for `measure_into`.
        """
        ...
