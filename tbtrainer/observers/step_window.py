"""The steps since the last reading: norms and losses, kept on the device, reduced over ranks."""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from tbtrainer.observers import step_facts
from tbtrainer.observers.step_facts import StepNorms, StepsReading
from tbtrainer.observers.step_losses import StepLosses
from tbtrainer.observers.step_sums import FACT_COLUMNS, KEPT_NORMS, StepSums, facts_of, host_facts
from tbtrainer.sharding import reduce_sum

# Bounds of the memory and of the number of steps whose norms are kept one by one. The number of
# steps is never below `_LEAST_STEPS`, however many rows there are.
_MOST_BYTES = 16 * 2**20
_LEAST_STEPS = 16
_MOST_STEPS = 1024


class StepWindow:
    """Keeps the norms of the last steps by row, and adds older steps up.

    When `_capacity` steps are kept, and at each reading, the kept steps are added to running sums.
    With several ranks, this adding up is a collective. Every rank reaches it at the same step,
    because it depends on the number of steps alone. It allocates no memory before the collective,
    so a rank without memory reaches it too. The steps that such a rank could not measure are marked
    as missing.

    Args:
        rows: Number of norms per step.
        dtype: Dtype of the norms: float64, or float32 on a device without float64.
        unit: The norms in the lines are multiples of this number.
        device: The device on which the lines are kept.
        reduces: Whether the squares of all ranks are added up.
    """

    def __init__(
        self,
        rows: int,
        dtype: torch.dtype,
        unit: float,
        device: torch.device,
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
        self._losses = StepLosses(self._capacity, dtype, device, self._sent.device)
        self._unit = unit
        self._reduces = reduces
        self._numbers: list[int] = []
        # What is known of the steps that were added up.
        self._added = 0
        self._sums: StepSums | None = None
        most_chunks = max(step_facts.MOST_FACTS // self._capacity, 1)
        self._facts: deque[tuple[list[int], Tensor]] = deque(maxlen=most_chunks)
        self._has_lost_steps = False

    def new_step(self, number: int) -> Tensor:
        """Returns the line of a new step, to be filled with norms.

        Adds the kept steps up before, if no line is left. If that fails, the new step is kept and
        marked as missing, because every rank has to keep the same number of steps.
        """
        try:
            if len(self._numbers) == self._capacity:
                self._add_up()
        except Exception:
            self._numbers.append(number)
            self.mark_missing()
            raise
        self._numbers.append(number)
        return self._norms[len(self._numbers)]

    def mark_missing(self) -> None:
        """Marks the newest step as not measured on this rank."""
        line = self._lines[len(self._numbers)]
        line.zero_()
        line[-1:].fill_(1.0)

    def mark_unread(self, row: int) -> None:
        """Marks a row as not read on this rank in this window."""
        self._lines[0, row : row + 1].fill_(1.0)

    def complete(
        self,
        number: int,
        loss: Tensor | None,
        loss_scale: Tensor | None,
        was_skipped: bool,
        was_reduced: Tensor | None = None,
    ) -> None:
        """Adds what is known of the newest step when it has been taken.

        Args:
            number: The step's number. Does nothing if another step is the newest.
            loss: This rank's loss, a scalar; `None` if it is not known.
            loss_scale: Of float16, a scalar; `None` without one.
            was_skipped: Whether the parameters are known to be as they were.
            was_reduced: Whether the scaler has reduced the loss scale, which it does when it skips
                a step: a boolean scalar, so that nothing waits for it. `None` without a scaler.
        """
        if self._numbers[-1:] == [number]:
            place = len(self._numbers) - 1
            self._losses.keep(place, loss, loss_scale, was_reduced, was_skipped)

    def newest(self) -> Tensor:
        """Returns the norms of the newest step on this rank, in multiples of the unit."""
        return self._norms[len(self._numbers)]

    def read(self) -> StepsReading | None:
        """Returns what is known of the steps since the last reading, and forgets them.

        Waits for the device once.

        Returns:
            The steps; `None` if there was none, or if an error lost some of them.

        Raises:
            Exception: Whatever kept this rank from adding up, after the collective.
        """
        try:
            self._add_up()
            if self._sums is None or self._has_lost_steps:
                return None
            return self._on_host(self._sums)
        finally:
            self._sums, self._added, self._has_lost_steps = None, 0, False
            self._facts.clear()

    def _add_up(self) -> None:
        """Adds the kept steps to the sums, over all ranks, and forgets them."""
        numbers, self._numbers = self._numbers, []
        if not numbers:
            return
        has_failed = True
        count = len(numbers)
        try:
            lines = self._sent[: count + 1]
            try:
                self._square(lines)
            finally:
                # Also on a rank that failed: it has marked its steps as missing.
                if self._reduces:
                    reduce_sum(lines)
                self._losses.reduce(count)
            facts = facts_of(lines, self._losses.reduced(count))
            sums = StepSums.of(lines, facts, self._added)
            self._sums = sums if self._sums is None else self._sums.then(sums)
            self._facts.append((numbers, facts))
            self._added += count
            has_failed = False
        finally:
            self._has_lost_steps |= has_failed
            self._lines[: count + 1].zero_()
            self._losses.clear(count)

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

    def _on_host(self, sums: StepSums) -> StepsReading:
        """Copies all that is kept to the host in one copy, which waits for the device."""
        numbers_of = [number for numbers, _ in self._facts for number in numbers]
        kept = [sums.rows, sums.norms, sums.numbers, *(facts for _, facts in self._facts)]
        copied = torch.cat([tensor.flatten() for tensor in kept]).cpu().numpy()
        rows = sums.rows.shape[1]
        lines = copied[: rows * (2 + KEPT_NORMS)].reshape(2 + KEPT_NORMS, rows)
        others = copied[lines.size :]
        finite_steps, _, last_place, used = (int(number) for number in others[:4])
        # The places are counted from the first step of the window, which may be dropped already.
        end = last_place - (self._added - len(numbers_of)) + 1
        last_numbers = numbers_of[max(end - used, 0) : max(end, 0)]
        norms = np.sqrt(lines[len(lines) - len(last_numbers) :])
        return StepsReading(
            steps=host_facts(numbers_of, others[4:].reshape(-1, FACT_COLUMNS)),
            squares=lines[0],
            finite_steps=finite_steps,
            unread=lines[1] > 0,
            last_norms=[StepNorms(*pair) for pair in zip(last_numbers, norms, strict=True)],
        )
