"""The rows of a snapshot: which tensors are counted together, and what is known of their size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import LINEAR_MAX_ELEMENTS
from tbtrainer.statistics.devices import moved, statistics_device


@dataclass(frozen=True)
class SnapshotRows:
    """The rows of a snapshot, fixed once and equal on every rank.

    The buckets are fixed, so counts of several tensors add up to those of the group exactly, and a
    row can hold one tensor or many.

    Attributes:
        names: Of each row.
        row_of: The row of each tensor.
        tensor_counts: Elements of each whole tensor of a row, `None` if not known beforehand.
        members: Tensors of each row.
        linear_rows: The rows that get the linear pass: those whose tensors are known to be small.
            Size alone decides, so every rank decides alike and no device is asked.
        linear_row_of: Place of a row's counts in the linear pass, by row.
        linear_index: `linear_rows` on the device of the statistics. int64, shape (linear rows,).
        device: Where the statistics are kept.
    """

    names: tuple[str, ...]
    row_of: tuple[int, ...]
    tensor_counts: tuple[int | None, ...]
    members: tuple[int, ...]
    linear_rows: tuple[int, ...]
    linear_row_of: dict[int, int]
    linear_index: Tensor
    device: torch.device

    @classmethod
    def of(
        cls, names: Sequence[str], global_counts: Sequence[int | None], device: torch.device
    ) -> "SnapshotRows":
        """Makes the rows of some tensors; tensors of one name share a row.

        Args:
            names: The row name of each tensor.
            global_counts: Elements of each whole tensor; `None` if not known beforehand. Tensors
                of one name have one size.
            device: Of the training. The statistics are kept there, or in main memory where it has
                no float64.

        Raises:
            ValueError: Tensors of one name differ in size.
        """
        row_by_name: dict[str, int] = {}
        row_of = [row_by_name.setdefault(name, len(row_by_name)) for name in names]
        counts: dict[int, int | None] = {}
        members = [0] * len(row_by_name)
        for name, row, count in zip(names, row_of, global_counts, strict=True):
            if counts.setdefault(row, count) != count:
                raise ValueError(f"tensors of {name} have {counts[row]} and {count} elements")
            members[row] += 1
        linear_rows = [
            row
            for row in range(len(row_by_name))
            if (count := counts[row]) is not None and count <= LINEAR_MAX_ELEMENTS
        ]
        kept_on = statistics_device(device)
        index = torch.tensor(linear_rows, dtype=torch.int64, device="cpu")
        return cls(
            names=tuple(row_by_name),
            row_of=tuple(row_of),
            tensor_counts=tuple(counts[row] for row in range(len(row_by_name))),
            members=tuple(members),
            linear_rows=tuple(linear_rows),
            linear_row_of={row: at for at, row in enumerate(linear_rows)},
            linear_index=moved(index, kept_on),
            device=kept_on,
        )

    def count_mismatches(self, counts: Sequence[int]) -> dict[int, str]:
        """Checks that every element was counted once.

        A tensor is counted whole or, where it is absent, not at all.

        Args:
            counts: Elements counted on all ranks together, one number per row.

        Returns:
            The problem of each row whose count is not possible, by row.
        """
        problems = {}
        for row, (count, size, members) in enumerate(
            zip(counts, self.tensor_counts, self.members, strict=True)
        ):
            if size is None or count in (0, size * members):
                continue
            if size == 0 or count % size or count > size * members:
                elements = f"{members} x {size:,}" if members > 1 else f"{size:,}"
                problems[row] = f"{self.names[row]} has {elements} elements, {count:,} were counted"
        return problems
