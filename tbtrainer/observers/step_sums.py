"""What is kept of steps that are added up on the device: sums, facts, and the last norms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.observers.step_facts import StepFacts
from tbtrainer.observers.step_losses import LOSS_RANK, LOSS_SCALE, SKIPPED

# Steps whose norms are kept by row: the first bad step, or the last one, and those before it.
KEPT_NORMS = 17
# The columns of facts: these three, then those of `StepLosses.reduced`.
TOTAL_SQUARE, MEASURED, LOOKS_OVERFLOWED = range(3)
FIRST_LOSS_COLUMN = 3
FACT_COLUMNS = FIRST_LOSS_COLUMN + 6


def facts_of(lines: Tensor, losses: Tensor) -> Tensor:
    """Returns what is known of each step.

    Args:
        lines: Of a `StepWindow`: squares over all ranks. float64, shape (1 + steps, rows + 1).
        losses: From `StepLosses.reduced`. float64, shape (steps, 6).

    Returns:
        float64, shape (steps, `FACT_COLUMNS`).
    """
    squares, measured = lines[1:, :-1], lines[1:, -1] == 0
    own = (squares.sum(dim=1), measured.to(torch.float64), looks_overflowed(squares))
    return torch.cat([torch.stack(own, dim=1), losses], dim=1)


def looks_overflowed(norms: Tensor) -> Tensor:
    """Returns whether gradients look as they do when the loss scale is too large.

    A gradient is infinite, or the one nearest to the loss is not finite: if the scaled loss itself
    overflows, all gradients are NaN. A NaN that the model itself makes usually begins in a
    layer further from the loss.

    Args:
        norms: Norms of the gradients or their squares, over all ranks, in the order of the model.
            Shape (steps, rows).

    Returns:
        1 or 0. float64, shape (steps,).
    """
    if norms.shape[1] == 0:
        return torch.zeros(len(norms), dtype=torch.float64, device=norms.device)
    places = torch.arange(norms.shape[1], device=norms.device)
    # The last parameter that has a gradient. NaN is not 0.
    nearest = ((norms != 0) * places).amax(dim=1, keepdim=True)
    is_bad = ~norms.gather(1, nearest).isfinite().squeeze(1)
    return (norms.isinf().any(dim=1) | is_bad).to(torch.float64)


def host_facts(numbers: Sequence[int], facts: np.ndarray) -> list[StepFacts]:
    """Returns the facts of steps as objects.

    Args:
        numbers: The numbers of the steps.
        facts: From `facts_of`, on the host. float64, shape (steps, `FACT_COLUMNS`).
    """
    return [
        StepFacts(
            step=number,
            loss=mean if is_known else None,
            loss_spread=spread if is_known and rank < 0 else None,
            loss_rank=int(rank) if rank >= 0 else None,
            grad_norm=math.sqrt(square) if is_measured else None,
            looks_overflowed=overflowed > 0,
            loss_scale=scale or None,
            was_skipped=was_skipped > 0,
        )
        # In the order of the columns.
        for number, (
            square,
            is_measured,
            overflowed,
            mean,
            is_known,
            spread,
            rank,
            was_skipped,
            scale,
        ) in zip(numbers, facts.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class StepSums:
    """Running sums over the steps of a window, on the device.

    Attributes:
        rows: Line 0: squares over the steps whose gradients are finite. Line 1: above 0 for a row
            that some rank could not read. float64, shape (2, rows).
        norms: Squares by row of the last `KEPT_NORMS` steps up to the first bad step, or up to the
            last step if none is bad. float64, shape (`KEPT_NORMS`, rows).
        numbers: The number of steps with finite gradients; 1 if a step is bad; the place in the
            window of the last line of `norms`; how many lines of it are in use, from the end.
            float64, shape (4,).
    """

    rows: Tensor
    norms: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, lines: Tensor, facts: Tensor, begin: int) -> "StepSums":
        """Adds up the steps of a `StepWindow`.

        Args:
            lines: As for `facts_of`.
            facts: What `facts_of` returns for them.
            begin: The place of the first of them in the window.
        """
        squares, totals = lines[1:, :-1], facts[:, TOTAL_SQUARE]
        is_measured = facts[:, MEASURED] > 0
        is_finite = is_measured & totals.isfinite()
        is_bad = _is_bad(facts, is_measured & ~totals.isfinite())
        has_bad = is_bad.any()
        last = len(facts) - 1
        end = torch.where(has_bad, is_bad.to(torch.int64).argmax(), last)
        places = end - KEPT_NORMS + 1 + torch.arange(KEPT_NORMS, device=squares.device)
        numbers = (is_finite.sum(), has_bad, end + begin, (end + 1).clamp(max=KEPT_NORMS))
        return cls(
            rows=torch.stack([squares.where(is_finite[:, None], 0.0).sum(dim=0), lines[0, :-1]]),
            norms=squares.index_select(0, places.clamp(min=0)),
            numbers=torch.stack([number.to(torch.float64) for number in numbers]),
        )

    def then(self, later: "StepSums") -> "StepSums":
        """Returns the sums over these steps and the steps after them."""
        finite, is_bad, place, used = self.numbers.unbind()
        later_finite, later_is_bad, later_place, later_used = later.numbers.unbind()
        has_bad = is_bad > 0
        numbers = (
            finite + later_finite,
            torch.maximum(is_bad, later_is_bad),
            place.where(has_bad, later_place),
            used.where(has_bad, (used + later_used).clamp(max=KEPT_NORMS)),
        )
        # The last lines of these steps, and after them the lines of the later ones that are in use.
        places = torch.arange(KEPT_NORMS, device=self.norms.device)
        moved = later_used.to(torch.int64)
        places = (places + moved).where(places < KEPT_NORMS - moved, places + KEPT_NORMS)
        norms = torch.cat([self.norms, later.norms]).index_select(0, places)
        return StepSums(
            self.rows + later.rows, self.norms.where(has_bad, norms), torch.stack(numbers)
        )


def _is_bad(facts: Tensor, has_bad_gradient: Tensor) -> Tensor:
    """Returns which steps are bad, as `StepFacts.is_bad` does. bool, shape (steps,)."""
    losses = facts[:, FIRST_LOSS_COLUMN:]
    has_bad_loss = losses[:, LOSS_RANK] >= 0
    is_overflow = (
        (losses[:, SKIPPED] > 0)
        & (facts[:, LOOKS_OVERFLOWED] > 0)
        & ~has_bad_loss
        & (losses[:, LOSS_SCALE] >= 1)
    )
    return has_bad_loss | (has_bad_gradient & ~is_overflow)
