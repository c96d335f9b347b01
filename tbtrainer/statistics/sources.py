"""What a snapshot measures: tensors as they are, or something that is computed from tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tbtrainer.statistics.measure import measure_into, measure_linear_into
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.tensor_statistics import TensorStatistics


class Source(Protocol):
    """A list of tensors that a snapshot measures. It is read once or twice."""

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Measures all tensors into statistics that hold no element yet.

        Args:
            out: Statistics without any element. Changed in place.
            rows: The row of each tensor; several tensors may share one.
            loss_scale: Loss scale that every element is divided by, a scalar tensor.
            backend: Which reader reads the tensors.
        """
        ...

    def linear_into(
        self,
        out: Tensor,
        lines: Sequence[int | None],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Counts the elements of some tensors in equal buckets, into counters that are 0.

        Args:
            out: Counters, shape (lines, LINEAR_BUCKET_COUNT). Changed in place.
            lines: The line of each tensor; `None` if it is not counted.
            minimum: Lower end of each line. float64, shape (lines,).
            maximum: Upper end of each line. float64, shape (lines,).
            loss_scale: See `measure_into`.
            backend: See `measure_into`.
        """
        ...


@dataclass(frozen=True)
class GivenTensors:
    """A `Source` of tensors as they are.

    Attributes:
        tensors: This rank's part of each tensor; `None` if it has none.
    """

    tensors: Sequence[Tensor | None]

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Measures all tensors; see `Source`."""
        measure_into(out, self.tensors, loss_scale, backend, rows)

    def linear_into(
        self,
        out: Tensor,
        lines: Sequence[int | None],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Counts the elements of some tensors in equal buckets; see `Source`."""
        chosen = [
            (tensor, line)
            for tensor, line in zip(self.tensors, lines, strict=True)
            if line is not None
        ]
        tensors, own_lines = [tensor for tensor, _ in chosen], [line for _, line in chosen]
        measure_linear_into(out, tensors, minimum, maximum, loss_scale, backend, own_lines)
