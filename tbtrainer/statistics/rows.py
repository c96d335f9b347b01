"""The rows of a snapshot: which tensors are counted together, and how large they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.statistics.buckets import LINEAR_MAX_ELEMENTS, NARROW_MAX_ROWS
from tbtrainer.statistics.devices import moved, statistics_device


@dataclass(frozen=True)
class SnapshotRows:
    """The rows of a snapshot, fixed when a training begins and equal on every rank.

    A row can hold one tensor or many. The buckets are fixed, so the counts of several tensors add
    up exactly.

    Attributes:
        names: Name of each row.
        row_of: Row of each tensor.
        tensor_counts: Elements of one whole tensor of each row; `None` if not known beforehand.
        members: Number of tensors of each row.
        linear_rows: The rows that get the linear pass: those with tensors of at most
            `LINEAR_MAX_ELEMENTS` elements. Sizes are equal on every rank, so this is too.
        linear_row_of: Row of the linear pass for each row that has one.
        linear_index: `linear_rows` on `device`. int64, shape (linear rows,).
        device: The device on which the statistics are kept.
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
        """Makes the rows of some tensors. Tensors with the same row name share a row.

        Args:
            names: Row name of each tensor.
            global_counts: Elements of each whole tensor; `None` if not known beforehand. Tensors
                of one row have the same size.
            device: Device of the training. The statistics are kept there, or in main memory if it
                has no float64.

        Raises:
            ValueError: Tensors of one row differ in size.
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

    @property
    def narrow_slots(self) -> int:
        """How many of the larger rows can have a linear pass in a snapshot; see `NarrowRows`."""
        return min(len(self.names) - len(self.linear_rows), NARROW_MAX_ROWS)

    @property
    def smallest_counts_dtype(self) -> torch.dtype:
        """The smallest dtype that holds any count of these rows, the same on every rank.

        It is int32 if no row has 2**31 elements or more on all ranks together, and int64 if one
        has, or if its size is not known beforehand.
        """
        most = torch.iinfo(torch.int32).max
        sizes = zip(self.tensor_counts, self.members, strict=True)
        fits = all(size is not None and size * members <= most for size, members in sizes)
        return torch.int32 if fits else torch.int64

    def count_mismatches(self, counts: Sequence[int]) -> dict[int, str]:
        """Finds the rows whose elements were not all counted once.

        A tensor that is absent is not counted at all, so the count of a row has to be a multiple of
        the size of its tensors.

        Args:
            counts: Elements counted on all ranks together, one number per row.

        Returns:
            A description of the problem, by row.
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
