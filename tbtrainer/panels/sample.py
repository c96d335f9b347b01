"""Which examples of an evaluation are kept, within a bound, without waiting for the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.columns import (
    joined_arrays,
    joined_columns,
    joined_row_bytes,
    shapes_of,
    taken,
    tensors_of,
    to_array,
)

# What one panel may keep of an evaluation, of examples and totals each.
MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class Examples:
    """The examples that were kept, in main memory.

    Attributes:
        columns: What was kept of them, arrays of shape (examples, …).
        order: The lowest ones are preferred, shape (examples,): hashes in float64, or minus the
            priorities in float32.
        numbers: Their positions in the data, int64, shape (examples,).
        is_ranked: Whether they have priorities.
    """

    columns: dict[str, NDArray[Any]]
    order: NDArray[Any]
    numbers: NDArray[np.int64]
    is_ranked: bool

    def rows(self, rows: NDArray[Any]) -> "Examples":
        """Returns some of them, by their numbers or as a mask."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Examples(columns, self.order[rows], self.numbers[rows], self.is_ranked)

    def ordered(self) -> "Examples":
        """Returns them by priority, the highest first, or else in the order of the data."""
        keys = (self.numbers, self.order) if self.is_ranked else (self.numbers,)
        return self.rows(np.lexsort(keys))


class Sample:
    """The examples that one panel keeps of one evaluation on this rank.

    Without a priority these are the examples with the lowest hashes of their positions in the data:
    a uniform sample, and the same one at each evaluation of the same data, with any batch size and
    any number of ranks. The host knows it in advance. With a priority they are chosen on the
    device, and the host does not wait for them.

    Args:
        most: The most examples.
        most_bytes: What they may take, unless one alone takes more.
    """

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._columns: dict[str, Tensor] = {}
        # On the host without priorities, on the device with them.
        self._order: Tensor | NDArray[np.float64] | None = None
        self._numbers: Tensor | NDArray[np.int64] | None = None
        # The highest hash of a full sample.
        self._worst = np.inf

    def add(self, examples: Mapping[str, Tensor], priority: Tensor | None, first: int) -> None:
        """Adds the examples of a batch, and keeps no more than the bounds allow.

        Args:
            examples: Tensors whose first dimensions are equal.
            priority: Shape (examples,); `None` for the sample. Always given or never.
            first: Position in the data of the first of the examples, below 2**53. The others
                follow.

        Raises:
            TypeError: One of the examples' columns is not a tensor.
            ValueError: The columns do not fit each other, or those of earlier batches.
        """
        size = _size_of(tensors_of(examples), priority)
        if size == 0:
            return
        if self._order is not None:
            self._check_names(examples, priority)
        if priority is None:
            self._add_sampled(examples, np.arange(first, first + size, dtype=np.int64))
        else:
            self._add_ranked(examples, priority, first)

    def _check_names(self, examples: Mapping[str, Tensor], priority: Tensor | None) -> None:
        if set(examples) != set(self._columns):
            raise ValueError(
                f"a panel kept {sorted(self._columns)} of earlier batches and {sorted(examples)} "
                "of this one; keep the same of each batch."
            )
        if isinstance(self._order, Tensor) != (priority is not None):
            raise ValueError(
                "a panel gave priorities for some batches and not for others; give them for each "
                "batch or for none."
            )

    def _add_sampled(self, examples: Mapping[str, Tensor], numbers: NDArray[np.int64]) -> None:
        order = hashes(numbers)
        # Nearly always none, once the sample is full.
        new = np.flatnonzero(order < self._worst)
        if len(new) == 0:
            return
        order, numbers, known = order[new], numbers[new], 0
        if self._order is not None:
            assert isinstance(self._order, np.ndarray) and isinstance(self._numbers, np.ndarray)
            known = len(self._order)
            order = np.concatenate([self._order, order])
            numbers = np.concatenate([self._numbers, numbers])
        most = self._bounded(examples)
        kept = np.arange(len(order))
        if len(order) > most:
            kept = np.sort(np.argpartition(order, most - 1)[:most])
        old, new = kept[kept < known], new[kept[kept >= known] - known]
        self._columns = self._joined(
            {name: taken(column, old) for name, column in self._columns.items()},
            {name: taken(column.detach(), new) for name, column in examples.items()},
        )
        self._order, self._numbers = order[kept], numbers[kept]
        if len(kept) >= most:
            self._worst = float(self._order.max())

    def _add_ranked(self, examples: Mapping[str, Tensor], priority: Tensor, first: int) -> None:
        order = -priority.detach().to(torch.float32)
        order = torch.where(order.isnan(), torch.inf, order)
        numbers = torch.arange(first, first + len(order), device=order.device)
        columns = {name: column.detach() for name, column in examples.items()}
        most = self._bounded(examples)
        # Before they are joined, so that no more than the bound is copied.
        columns, order, numbers = _best(columns, order, numbers, most)
        if self._order is not None:
            assert isinstance(self._order, Tensor) and isinstance(self._numbers, Tensor)
            order = torch.cat([self._order, order])
            numbers = torch.cat([self._numbers, numbers])
        columns = self._joined(self._columns, columns)
        self._columns, self._order, self._numbers = _best(columns, order, numbers, most)

    def _joined(self, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what is kept and new examples in one tensor per name: always a copy."""
        if not old:
            return {name: column.clone() for name, column in new.items()}
        return {name: joined_columns(old[name], column) for name, column in new.items()}

    def _bounded(self, examples: Mapping[str, Tensor]) -> int:
        """Returns how many examples may be kept when these join the others: at least one."""
        row = joined_row_bytes(self._columns, examples)
        return max(1, min(self._most, self._most_bytes // row))

    def kept(self) -> Examples | None:
        """Returns what is kept; `None` if nothing is. Waits for the device."""
        order, numbers = self._order, self._numbers
        if order is None or numbers is None:
            return None
        columns = {name: to_array(column) for name, column in self._columns.items()}
        if isinstance(order, Tensor) and isinstance(numbers, Tensor):
            ranked = Examples(columns, to_array(order), to_array(numbers), is_ranked=True)
            return ranked.rows(ranked.order < np.inf)
        assert isinstance(order, np.ndarray) and isinstance(numbers, np.ndarray)
        return Examples(columns, order, numbers, is_ranked=False)


def joined(parts: Sequence[Examples], most: int) -> Examples | None:
    """Returns the preferred examples of several ranks, within the bounds of one `Sample`.

    Args:
        parts: What `Sample.kept` returned on each rank that has kept something.
        most: The most examples.

    Raises:
        ValueError: The ranks kept different columns.
    """
    if not parts:
        return None
    kinds = {(part.is_ranked, *sorted(part.columns)) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"a panel kept different columns on different ranks: {sorted(kinds)}.")
    examples = Examples(
        {name: joined_arrays([part.columns[name] for part in parts]) for name in parts[0].columns},
        np.concatenate([part.order for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        parts[0].is_ranked,
    )
    row = max(1, sum(column[:1].nbytes for column in examples.columns.values()))
    most = max(1, min(most, MOST_BYTES // row))
    return examples.rows(np.lexsort((examples.numbers, examples.order))[:most])


def hashes(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns for each number one of 2**53 values, as good as random.

    The function is the finalizer of splitmix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014).
    """
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64)


def _best(
    columns: dict[str, Tensor], order: Tensor, numbers: Tensor, most: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Returns the examples of the lowest order, of equal ones the earlier, on the device."""
    if len(order) <= most:
        return columns, order, numbers
    kept = torch.sort(order, stable=True).indices[:most]
    columns = {name: column.index_select(0, kept) for name, column in columns.items()}
    return columns, order.index_select(0, kept), numbers.index_select(0, kept)


def _size_of(examples: Mapping[str, Tensor], priority: Tensor | None) -> int:
    sizes = {len(column) if column.dim() > 0 else -1 for column in examples.values()}
    if priority is not None:
        sizes.add(len(priority) if priority.dim() == 1 else -1)
    if len(sizes) > 1 or -1 in sizes:
        given = "" if priority is None else f", with priorities of the shape {priority.shape}"
        raise ValueError(
            f"a panel kept tensors of the shapes {shapes_of(examples)}{given}; the first dimension "
            "of all has to be the number of examples, and the only one of the priorities."
        )
    return sizes.pop() if sizes else 0
