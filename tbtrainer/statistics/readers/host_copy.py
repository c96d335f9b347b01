"""Reads tensors of a device without float64, such as Apple's MPS, in main memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tbtrainer.statistics.readers.batches import batches
from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.reader import INT64_COUNTERS
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Most elements copied at a time, which bounds the memory of the copy.
_MOST_COPIED = 2**22


class HostCopyReader:
    """Reads tensors of a device without float64 by copying them to main memory in batches.

    Sums need float64. Counts need operations on 64-bit integers that MPS does not have. Such a
    device usually shares its memory with the CPU, so the copy is cheap. The copy waits for the
    device.
    """

    name = "host copy"
    counter_dtypes = INT64_COUNTERS

    def __init__(self) -> None:
        self._cpu = CpuReader()

    def supports(self, tensor: Tensor) -> bool:
        """Returns True: every measurable tensor can be copied."""
        return True

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        tensors: Sequence[Tensor],
        loss_scale: Tensor | None,
    ) -> None:
        """Adds the statistics of tensors to rows of `out`; see `Reader`."""
        for copied_rows, copies in _copies(rows, tensors):
            self._cpu.measure_into(out, copied_rows, copies, loss_scale)

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
        for copied_rows, copies in _copies(rows, tensors):
            self._cpu.linear_into(out, copied_rows, copies, minimum, maximum, loss_scale)


def _copies(
    rows: Sequence[int], tensors: Sequence[Tensor]
) -> Iterator[tuple[Sequence[int], Sequence[Tensor]]]:
    """Copies tensors to main memory in batches. Yields the rows and the copies of each batch."""
    for batch in batches(rows, tensors, _MOST_COPIED):
        yield batch.rows, batch.values.to(torch.device("cpu")).split(batch.sizes)
