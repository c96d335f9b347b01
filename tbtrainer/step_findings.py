"""What is not finite in an optimizer step that is about to be taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.observers.facts import Gradients


@dataclass(frozen=True)
class Findings:
    """What was found in a step, as numbers of which the largest of all ranks counts.

    Attributes:
        bad_loss: 1 if a loss is not finite.
        bad_gradient: 1 if a gradient is not finite.
        has_infinity: 1 if an element of a gradient is infinite. Known with a loss scale only.
        last_row: The last row with a gradient that is not zero, counted from 1.
        last_bad_row: The last row with a gradient that is not finite, counted from 1.
        loss_scale: Of float16; 0 without one.
    """

    bad_loss: float = 0.0
    bad_gradient: float = 0.0
    has_infinity: float = 0.0
    last_row: float = 0.0
    last_bad_row: float = 0.0
    loss_scale: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Whether the step must not be taken."""
        return self.bad_loss > 0 or (self.bad_gradient > 0 and not self._is_overflow)

    @property
    def _is_overflow(self) -> bool:
        """Whether the loss scale was too large; see `StepFacts.is_overflow`."""
        looks_overflowed = self.has_infinity > 0 or self.last_bad_row == self.last_row
        return looks_overflowed and self.loss_scale >= 1


def findings_of(
    losses: Sequence[Tensor], gradients: Gradients | None, norms: Tensor | None
) -> Findings:
    """Returns what this rank found in its losses and gradients. Waits for the device once.

    Args:
        losses: Of the micro-batches, scalars.
        gradients: This rank's gradients; `None` if they could not be read.
        norms: The norm of each gradient in multiples of any unit, 0 where other ranks count it.
            Shape (rows,). `None` if they could not be measured.
    """
    if gradients is None or norms is None or len(norms) == 0:
        return Findings(bad_loss=float(not _all_finite(losses)))
    scale = torch.zeros((), device="cpu") if gradients.loss_scale is None else gradients.loss_scale
    numbers = [_last_place(norms != 0), _last_place(~norms.isfinite()), scale]
    numbers += [_finite(loss) for loss in losses]
    last_row, last_bad_row, loss_scale, *are_finite = torch.stack(
        [number.to(norms.device, torch.float32, non_blocking=True) for number in numbers]
    ).tolist()
    # With a loss scale an overflow has to be distinguished from a NaN of the model.
    has_infinity = last_bad_row > 0 and loss_scale > 0 and _has_infinity(gradients.parts)
    return Findings(
        bad_loss=float(not all(are_finite)),
        bad_gradient=float(last_bad_row > 0),
        has_infinity=float(has_infinity),
        last_row=last_row,
        last_bad_row=last_bad_row,
        loss_scale=loss_scale,
    )


def _last_place(flags: Tensor) -> Tensor:
    """Returns the place of the last flag that is set, counted from 1; 0 if none is."""
    return (flags * torch.arange(1, len(flags) + 1, device=flags.device)).amax()


def _has_infinity(parts: Sequence[Tensor | None]) -> bool:
    return any(bool(part.isinf().any()) for part in parts if part is not None)


def _finite(values: Tensor) -> Tensor:
    return values.isfinite().all()


def _all_finite(losses: Sequence[Tensor]) -> bool:
    return all(bool(_finite(loss)) for loss in losses)
