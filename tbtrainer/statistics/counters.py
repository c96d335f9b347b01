"""The counters of a snapshot, in one piece of memory that is sent as it is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.statistics.buckets import BUCKET_COUNT, LINEAR_BUCKET_COUNT
from tbtrainer.statistics.rows import SnapshotRows


@dataclass(frozen=True)
class Counters:
    """The counters of all rows of a snapshot.

    Attributes:
        numbers: All counters. int32 or int64, shape (`counter_count(rows)`,).
        buckets: A view of the counters of the fixed buckets. Shape (rows, BUCKET_COUNT).
        linear: A view of the counters of the linear pass: one line for each of `rows.linear_rows`,
            and then `rows.narrow_slots` lines. Shape (lines, LINEAR_BUCKET_COUNT).
    """

    numbers: Tensor
    buckets: Tensor
    linear: Tensor

    @classmethod
    def zeros(cls, rows: SnapshotRows, dtype: torch.dtype) -> "Counters":
        """Allocates counters that are 0, on the device of the rows."""
        return cls.of(rows, zeros((counter_count(rows),), dtype, rows.device))

    @classmethod
    def of(cls, rows: SnapshotRows, numbers: Tensor) -> "Counters":
        """Returns the views of counters.

        Args:
            rows: The rows that are counted.
            numbers: See the attribute of this name.
        """
        end = len(rows.names) * BUCKET_COUNT
        return cls(
            numbers,
            numbers[:end].view(-1, BUCKET_COUNT),
            numbers[end:].view(-1, LINEAR_BUCKET_COUNT),
        )


def counter_count(rows: SnapshotRows) -> int:
    """Returns the number of counters of a snapshot: about 2,051 per row, and 512 per line."""
    lines: int = len(rows.linear_rows) + rows.narrow_slots
    count: int = len(rows.names) * BUCKET_COUNT + lines * LINEAR_BUCKET_COUNT
    return count


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns zeros. In main memory, pages that are never written cost no memory."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NumPy gets zeroed pages from the system.
    return torch.from_numpy(np.zeros(shape, np.int32 if dtype == torch.int32 else np.int64))
