"""Tensors that are measured one after another while they exist, and are not kept."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import LINEAR_BUCKET_COUNT
from tbtrainer.statistics.devices import moved
from tbtrainer.statistics.measure import measure, measure_into, measure_linear
from tbtrainer.statistics.narrow import NarrowRows
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.rows import SnapshotRows
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Dtypes whose NaN every device can write.
_WITH_NAN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class StreamedTensors:
    """A `Source` of tensors that were measured before the snapshot is taken.

    A tensor is measured when it is added, so that it does not have to be kept. A row may get any
    number of tensors of any size, or none. The host does not wait for an accelerator.

    The ends of a linear pass have to be known beforehand, so only the narrow rows have one.

    Args:
        rows: The rows of the snapshot.
        narrow: The narrow rows of the snapshot for which the tensors are measured, as
            `PreviousExtremes.narrow_rows` returns them before it is taken.
    """

    def __init__(self, rows: SnapshotRows, narrow: NarrowRows) -> None:
        self._rows = rows
        self._statistics = TensorStatistics.empty(len(rows.names), rows.device)
        self._slot_of = {row: slot for slot, row in enumerate(narrow.rows)}
        self._low, self._high = (
            moved(torch.from_numpy(ends.copy()), rows.device) for ends in (narrow.low, narrow.high)
        )
        shape = (len(narrow.rows), LINEAR_BUCKET_COUNT)
        self._linear = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        self._started: set[int] = set()
        self._zero = torch.zeros(1, dtype=torch.int64, device=rows.device)

    @torch.no_grad()
    def add(
        self,
        member: int,
        tensor: Tensor,
        loss_scale: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Measures a tensor.

        Args:
            member: Which of the members of `rows.row_of` it belongs to.
            tensor: A measurable tensor of any shape, strides and dtype, on any device.
            loss_scale: Loss scale that every element is divided by, a scalar tensor.
            mask: Zero where elements do not count, and nonzero where they do. Its shape is that of
                the first dimensions of the tensor. With a mask the tensor is copied.

        Raises:
            Exception: Whatever kept the tensor from being measured. These statistics are then
                incomplete.
        """
        tensor = tensor.detach()
        row = self._rows.row_of[member]
        left_out = None
        if mask is not None and tensor.dtype in _WITH_NAN and not _is_full(mask):
            tensor, left_out = _with_nan(tensor, mask)
        self._add(row, tensor, loss_scale)
        if left_out is not None:
            left_out = moved(left_out, self._rows.device)
            self._statistics.count[row] -= left_out
            self._statistics.nonfinite[row] -= left_out

    def _add(self, row: int, tensor: Tensor, loss_scale: Tensor | None) -> None:
        own = TensorStatistics(
            **{
                f.name: getattr(self._statistics, f.name)[row : row + 1]
                for f in fields(TensorStatistics)
            }
        )
        if row in self._started:
            found = measure([tensor], self._rows.device, loss_scale)
            own.add_rows(self._zero, found)
        else:
            self._started.add(row)
            measure_into(own, [tensor], loss_scale)
        slot = self._slot_of.get(row)
        if slot is not None:
            at = slice(slot, slot + 1)
            ends = self._low[at], self._high[at]
            self._linear[at] += measure_linear([tensor], *ends, loss_scale)

    def measure_into(
        self,
        out: TensorStatistics,
        rows: Sequence[int],
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Adds what was measured; see `Source`. The loss scale was given to `add`."""
        every = torch.arange(len(self._rows.names), device=self._rows.device)
        out.add_rows(every, self._statistics)

    def linear_into(
        self,
        out: Tensor,
        lines: Sequence[int | None],
        minimum: Tensor,
        maximum: Tensor,
        loss_scale: Tensor | None,
        backend: Backend,
    ) -> None:
        """Adds the counts of the linear pass; see `Source`. Its ends were given beforehand."""
        line_of = dict(zip(self._rows.row_of, lines, strict=True))
        slots = {
            slot: line for row, slot in self._slot_of.items() if (line := line_of[row]) is not None
        }
        if slots:
            from_slots, to_lines = (
                moved(torch.tensor(list(numbers), dtype=torch.int64, device="cpu"), out.device)
                for numbers in (slots.keys(), slots.values())
            )
            out.index_add_(0, to_lines, self._linear[from_slots].to(out.dtype))


def _is_full(mask: Tensor) -> bool:
    """Returns whether a mask is known to be without a zero: only in main memory."""
    return mask.device.type == "cpu" and bool((mask != 0).all())


def _with_nan(tensor: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a copy with NaN where elements do not count, and how many these are.

    A NaN is in none of the sums and buckets. An index with a mask would make the host wait.

    Returns:
        The copy, and a scalar of int64 on the device of the mask.
    """
    mask = moved(mask, tensor.device)
    is_left_out = mask == 0
    features = tensor[(0,) * mask.dim()].numel() if tensor.numel() else 0
    spread = is_left_out.reshape(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
    return tensor.masked_fill(spread, torch.nan), is_left_out.sum() * features
