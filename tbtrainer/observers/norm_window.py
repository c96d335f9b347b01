"""The norms of all steps since the last logging step, kept on the device and reduced over ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.sharding import reduce_sum

# Bounds of the memory and of the number of steps whose norms are kept one by one. The number of
# steps is never below `_LEAST_STEPS`, however many rows there are.
_MOST_BYTES = 16 * 2**20
_LEAST_STEPS = 16
_MOST_STEPS = 1024


@dataclass(frozen=True)
class WindowTotals:
    """The norms of one logging window, of all ranks together, on the host.

    The total norm of a step is the norm of all its rows together.

    Attributes:
        squares: Sum of the squared norms over the finite steps. float64, shape (rows,).
        unread: Whether some rank could not read the gradient at some step. bool, shape (rows,).
        finite_steps: Steps whose gradients are all finite.
        nonfinite_steps: Steps with a NaN or an infinity in some gradient. A step that some rank
            could not measure is counted in neither number.
        largest_square: Largest square of the total norm over the finite steps.
        clipped_squares: Sum over the finite steps of the squared total norm after clipping.
        clipped_steps: Finite steps whose total norm is above `max_norm`.
    """

    squares: np.ndarray
    unread: np.ndarray
    finite_steps: int
    nonfinite_steps: int
    largest_square: float
    clipped_squares: float
    clipped_steps: int


class NormWindow:
    """Keeps the norms of the last steps by row, and adds older steps up.

    When `_capacity` steps are kept, and at the end of the window, the kept steps are added to
    running sums. Where tensors are sharded, this adding up is a collective. Every rank reaches it
    at the same step, because it depends on the number of steps alone. It allocates no memory before
    the collective, so a rank without memory reaches it too. The steps that such a rank could not
    measure are marked as missing.

    Args:
        rows: Number of norms per step.
        dtype: Dtype of the norms: float64, or float32 on a device without float64.
        unit: The norms in the lines are multiples of this number.
        device: The device on which the lines are kept.
        max_norm: The total norm that gradients are clipped to; 0 means no clipping.
        reduces: Whether the squares of all ranks are added up.
    """

    def __init__(
        self,
        rows: int,
        dtype: torch.dtype,
        unit: float,
        device: torch.device,
        max_norm: float,
        reduces: bool,
    ) -> None:
        most = _MOST_BYTES // (8 * (rows + 1))
        self._capacity = max(_LEAST_STEPS, min(most, _MOST_STEPS))
        # Line 0 has a 1 for each row that could not be read. Each further line is one step: the
        # norms of its rows, then a 1 if the step could not be measured.
        shape = (1 + self._capacity, rows + 1)
        self._lines = torch.zeros(shape, dtype=dtype, device=device)
        self._norms = self._lines[:, :-1]
        # The squares are added up in float64: in main memory if the device has no float64.
        self._sent = self._lines
        if dtype != torch.float64:
            self._sent = torch.zeros(shape, dtype=torch.float64, device="cpu")
        self._unit = unit
        self._max_norm = max_norm
        self._reduces = reduces
        self._steps = 0
        self._sums: _Sums | None = None
        self._has_lost_steps = False

    @contextmanager
    def step(self) -> Iterator[Tensor]:
        """Yields the line of a new step, to be filled with norms.

        Adds the kept steps up afterwards if no line is left.
        """
        self._steps += 1
        try:
            yield self._norms[self._steps]
        finally:
            if self._steps == self._capacity:
                self._add_up()

    def mark_missing(self) -> None:
        """Marks the newest step as not measured on this rank."""
        line = self._lines[self._steps]
        line.zero_()
        line[-1:].fill_(1.0)

    def mark_unread(self, row: int) -> None:
        """Marks a row as not read on this rank in this window."""
        self._lines[0, row : row + 1].fill_(1.0)

    def taken(self) -> WindowTotals | None:
        """Returns the totals of the window, and begins a new window.

        Waits for the device once.

        Returns:
            The totals; `None` if the window has no step, or if an error lost some of its steps.

        Raises:
            Exception: Whatever kept this rank from adding up, after the collective.
        """
        try:
            self._add_up()
            if self._sums is None or self._has_lost_steps:
                return None
            return self._sums.on_host()
        finally:
            self._sums, self._has_lost_steps = None, False

    def _add_up(self) -> None:
        """Adds the kept steps to the sums, over all ranks, and forgets them."""
        steps, self._steps = self._steps, 0
        if steps == 0:
            return
        has_failed = True
        try:
            lines = self._sent[: steps + 1]
            try:
                self._square(lines)
            finally:
                # A rank that failed has marked its steps as missing, and takes part all the same.
                if self._reduces:
                    reduce_sum(lines)
            sums = _Sums.of(lines, self._max_norm)
            self._sums = sums if self._sums is None else self._sums.plus(sums)
            has_failed = False
        finally:
            self._has_lost_steps |= has_failed
            self._lines[: steps + 1].zero_()

    def _square(self, lines: Tensor) -> None:
        """Puts the squares of the kept norms into `lines`.

        If that fails, all their steps are marked as missing, and all their rows as unread.
        """
        try:
            if self._sent is not self._lines:
                lines.copy_(self._lines[: len(lines)])
                lines[1:, :-1].mul_(self._unit)
            lines.square_()
        except Exception:
            lines.zero_()
            lines[0].fill_(1.0)
            lines[1:, -1:].fill_(1.0)
            raise


@dataclass(frozen=True)
class _Sums:
    """Running sums over the steps of a window, on the device.

    Attributes:
        rows: Line 0: squares over the finite steps. Line 1: above 0 for a row that some rank could
            not read. float64, shape (2, rows).
        totals: The fields of `WindowTotals` from `finite_steps` on. float64, shape (5,).
    """

    rows: Tensor
    totals: Tensor

    @classmethod
    def of(cls, lines: Tensor, max_norm: float) -> "_Sums":
        """Adds up the lines of a `NormWindow`, which hold squares over all ranks."""
        squares, measured = lines[1:, :-1], lines[1:, -1] == 0
        totals = squares.sum(dim=1)
        is_finite = totals.isfinite()
        finite, nonfinite = measured & is_finite, measured & ~is_finite
        totals = totals.where(finite, 0.0)
        limit = float(max_norm) ** 2
        of_steps = (
            finite.sum(),
            nonfinite.sum(),
            totals.max(),
            totals.clamp(max=limit).sum(),
            (totals > limit).sum(),
        )
        of_rows = (squares.where(finite[:, None], 0.0).sum(dim=0), lines[0, :-1])
        return cls(torch.stack(of_rows), torch.stack([n.to(torch.float64) for n in of_steps]))

    def plus(self, later: "_Sums") -> "_Sums":
        """Returns the sums over the steps of both."""
        totals = self.totals + later.totals
        totals[2] = torch.maximum(self.totals[2], later.totals[2])
        return _Sums(self.rows + later.rows, totals)

    def on_host(self) -> WindowTotals:
        """Copies the sums to the host in one copy, which waits for the device."""
        numbers = torch.cat([self.rows.flatten(), self.totals]).cpu().numpy()
        squares, unread = numbers[:-5].reshape(2, -1)
        steps, others, largest, clipped_squares, clipped = numbers[-5:].tolist()
        return WindowTotals(
            squares=squares,
            unread=unread > 0,
            finite_steps=int(steps),
            nonfinite_steps=int(others),
            largest_square=largest,
            clipped_squares=clipped_squares,
            clipped_steps=int(clipped),
        )
