"""The norms of a logging window: step by step at first, then as sums over the steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.sharding import reduce_sum

_MOST_BYTES = 16 * 2**20
_LEAST_STEPS = 16
_MOST_STEPS = 1024


@dataclass(frozen=True)
class WindowTotals:
    """What a logging window came to, on the host, of all ranks together.

    Attributes:
        squares: Sum over the finite steps of the squared norms. float64, shape (rows,).
        unread: Whether the gradient could not be read at some step on some rank. bool, (rows,).
        finite_steps: Steps without a NaN or an infinity in any gradient.
        nonfinite_steps: Steps with one. Steps that some rank could not measure are neither.
        largest_square: Largest square of the norm of all rows together.
        clipped_squares: Sum of the squares of that norm after clipping.
        clipped_steps: Steps at which that norm was above the limit.
    """

    squares: "np.ndarray"
    unread: "np.ndarray"
    finite_steps: int
    nonfinite_steps: int
    largest_square: float
    clipped_squares: float
    clipped_steps: int


class NormWindow:
    """Keeps the norms of the last steps by row, and folds older ones into sums.

    A fold is a collective where ranks hold different rows or parts of rows. It happens at the same
    step on every rank, because it depends on the number of steps alone, and nothing is allocated on
    the way to it: a rank without memory contributes a step marked as missing.

    Args:
        rows: Norms of a step.
        dtype: Of the norms: float64, or float32 on a device without it.
        unit: The norms are in units of this.
        device: Where they are kept until a fold.
        max_norm: The norm that all rows together are clipped to; 0 means no clipping.
        reduces: Whether a fold adds up the squares of all ranks.
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
        # First a line with a 1 for each row that could not be read. Then a line for each step: the
        # norms, and a 1 if the step could not be measured.
        shape = (1 + self._capacity, rows + 1)
        self._lines = torch.zeros(shape, dtype=dtype, device=device)
        # Where squares are added up: main memory if the device has no float64.
        self._sent = self._lines
        if dtype != torch.float64:
            self._sent = torch.zeros(shape, dtype=torch.float64, device="cpu")
        self._unit = unit
        self._max_norm = max_norm
        self._reduces = reduces
        self._steps = 0
        self._sums: _Sums | None = None

    @contextmanager
    def step(self) -> Iterator[Tensor]:
        """Gives the line of a new step, to be filled with norms; folds when no line is left."""
        self._steps += 1
        try:
            yield self._lines[self._steps, :-1]
        finally:
            if self._steps == self._capacity:
                self._fold()

    def mark_missing(self) -> None:
        """Marks the newest step as not measured on this rank."""
        line = self._lines[self._steps]
        line.zero_()
        line[-1:].fill_(1.0)

    def mark_unread(self, row: int) -> None:
        """Marks a row as not known in this window."""
        self._lines[0, row : row + 1].fill_(1.0)

    def taken(self) -> WindowTotals | None:
        """Returns what the window came to, and begins a new one; `None` if it holds no step.

        Waits for the device once.
        """
        self._fold()
        sums, self._sums = self._sums, None
        return None if sums is None else sums.on_host()

    def _fold(self) -> None:
        """Adds the steps kept so far to the sums."""
        steps, self._steps = self._steps, 0
        if steps == 0:
            return
        try:
            lines = self._sent[: steps + 1]
            if self._sent is not self._lines:
                lines.copy_(self._lines[: steps + 1])
                lines[1:, :-1].mul_(self._unit)
            lines.square_()
            if self._reduces:
                reduce_sum(lines)
            sums = _Sums.of(lines, self._max_norm)
            self._sums = sums if self._sums is None else self._sums.plus(sums)
        finally:
            self._lines[: steps + 1].zero_()


@dataclass(frozen=True)
class _Sums:
    """Running sums over the steps of a window, on the device.

    Attributes:
        rows: Squares over the finite steps, and whether a row was unread. float64, (2, rows).
        totals: As the fields of `WindowTotals` from `finite_steps` on. float64, shape (5,).
    """

    rows: Tensor
    totals: Tensor

    @classmethod
    def of(cls, lines: Tensor, max_norm: float) -> "_Sums":
        """Adds up the lines of a `NormWindow`, squared and of all ranks together."""
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
        """The sums of both."""
        totals = self.totals + later.totals
        totals[2] = torch.maximum(self.totals[2], later.totals[2])
        return _Sums(self.rows + later.rows, totals)

    def on_host(self) -> WindowTotals:
        """Copies the sums to the host, once."""
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
