"""What is known of each step of a logging window, on the host, of all ranks together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Most steps of which a reading knows more than the sum over the steps.
MOST_FACTS = 65_536


@dataclass(frozen=True)
class StepFacts:
    """One optimizer step.

    Attributes:
        step: Its number, counted from 1.
        loss: Mean over the ranks, summed over the micro-batches as `train/loss` is. NaN if it was
            not finite on some rank; `None` if it is not known.
        loss_spread: Largest minus smallest loss of a rank; `None` where `loss` is not finite.
        loss_rank: The last rank whose loss was not finite; `None` if all were finite.
        grad_norm: Norm of all gradients that can be read together, before clipping and without the
            loss scale; `None` if some rank could not measure it. NaN or infinite if a gradient is.
        looks_overflowed: Whether the norm of some gradient was infinite, or that of the gradient
            nearest to the loss was not finite.
        loss_scale: What float16 gradients were multiplied by; `None` without a loss scale.
        was_skipped: Whether the loss scaler left the parameters as they were.
    """

    step: int
    loss: float | None
    loss_spread: float | None
    loss_rank: int | None
    grad_norm: float | None
    looks_overflowed: bool
    loss_scale: float | None
    was_skipped: bool

    @property
    def has_bad_loss(self) -> bool:
        """Whether the loss was not finite on some rank."""
        return self.loss_rank is not None

    @property
    def has_bad_gradient(self) -> bool:
        """Whether a gradient had a NaN or an infinity, whatever the reason."""
        return self.grad_norm is not None and not math.isfinite(self.grad_norm)

    @property
    def is_overflow(self) -> bool:
        """Whether the loss scale was too large: expected now and then, and without damage.

        The scaler skipped the step, the gradients look as after an overflow, and the loss was
        finite. With a loss scale below 1, the scale is not the cause.
        """
        return (
            self.was_skipped
            and self.looks_overflowed
            and not self.has_bad_loss
            and self.loss_scale is not None
            and self.loss_scale >= 1
        )

    @property
    def is_bad(self) -> bool:
        """Whether the step had a loss or a gradient that was not finite, without an overflow."""
        return self.has_bad_loss or (self.has_bad_gradient and not self.is_overflow)


@dataclass(frozen=True)
class StepNorms:
    """The gradient norms of one step by row.

    Attributes:
        step: The step's number.
        norms: float64, shape (rows,).
    """

    step: int
    norms: np.ndarray


@dataclass(frozen=True)
class StepsReading:
    """Consecutive steps, of all ranks together.

    Attributes:
        steps: The steps in order. Of a very long window only the last ones.
        squares: Sum of the squared norms over the steps whose gradients are finite, by row.
            float64, shape (rows,).
        finite_steps: The number of these steps.
        unread: Whether some rank could not read the gradient at some step, by row. bool, (rows,).
        last_norms: Norms by row of up to 16 steps, and of the step after them: the first bad step,
            or the last step if none is bad.
    """

    steps: Sequence[StepFacts]
    squares: np.ndarray
    finite_steps: int
    unread: np.ndarray
    last_norms: Sequence[StepNorms]

    @property
    def first_bad(self) -> StepFacts | None:
        """The first bad step, or `None`."""
        return next((facts for facts in self.steps if facts.is_bad), None)

    def then(self, later: "StepsReading") -> "StepsReading":
        """Returns the reading of these steps and of the steps after them."""
        return StepsReading(
            # Without logging steps a window is as long as the training.
            steps=[*self.steps, *later.steps][-MOST_FACTS:],
            squares=self.squares + later.squares,
            finite_steps=self.finite_steps + later.finite_steps,
            unread=self.unread | later.unread,
            last_norms=later.last_norms if self.first_bad is None else self.last_norms,
        )
