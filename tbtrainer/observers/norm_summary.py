"""The gradient norms of a logging window: in total, and per group of parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tbtrainer.observers.step_facts import StepFacts, StepsReading
from tbtrainer.sharding import Row
from tbtrainer.sharding.parameter_names import block_name


@dataclass(frozen=True)
class GradientNormSummary:
    """The gradient norms of one logging window, before clipping.

    The total norm of a step is the norm of all gradients together.

    Attributes:
        steps: Steps of the window whose gradients are all finite. The norms are of these steps.
        rms: Root mean square over the steps of the norm of each group, by the group's name. Groups
            whose parameters are all frozen are left out, and so are groups with a gradient that
            cannot be read.
        total: Root mean square over the steps of the total norm; `None` if the gradient of some
            trained parameter cannot be read.
        maximum: Largest total norm; `None` if `total` is.
        clipped: Root mean square of the total norm after clipping to `max_grad_norm`; `None` if
            `total` is, and without clipping.
        clip_fraction: Share of the steps that were clipped; `None` if `clipped` is.
    """

    steps: int
    rms: dict[str, float]
    total: float | None
    maximum: float | None
    clipped: float | None
    clip_fraction: float | None


class NormGroups:
    """Which parameters are shown together.

    Args:
        rows: The rows of the parameters.
        detail: `"total"`, `"block"` or `"parameter"`.
    """

    def __init__(self, rows: Sequence[Row], detail: str) -> None:
        self._rows = rows
        self._detail = detail
        groups = [self.name_of(row.name) for row in rows]
        self._names = list(dict.fromkeys(groups))
        number_of = {group: number for number, group in enumerate(self._names)}
        self._group_of_row = np.array([number_of[group] for group in groups], dtype=np.int64)

    def summary(
        self, reading: StepsReading, missing: Mapping[str, str], max_norm: float
    ) -> GradientNormSummary | None:
        """Sums a window up.

        Args:
            reading: The steps of the window.
            missing: Why the gradient of a trained parameter is unknown, by the parameter's name.
            max_norm: The norm that gradients are clipped to; 0 means no clipping.

        Returns:
            The norms; `None` if the window has no step with finite gradients.
        """
        totals = _finite_norms(reading.steps)
        if reading.finite_steps == 0 or len(totals) == 0:
            return None
        total = maximum = clipped = clip_fraction = None
        if not missing:
            total = _rms_of(totals)
            maximum = float(totals.max())
            if max_norm > 0:
                clipped = _rms_of(totals.clip(max=max_norm))
                clip_fraction = float((totals > max_norm).mean())
        return GradientNormSummary(
            steps=reading.finite_steps,
            rms=self._rms(reading, missing) if self._detail != "total" else {},
            total=total,
            maximum=maximum,
            clipped=clipped,
            clip_fraction=clip_fraction,
        )

    def name_of(self, name: str) -> str:
        """Returns the name of a parameter's group."""
        if self._detail == "parameter":
            return name
        return block_name(name) if self._detail == "block" else "total"

    def _rms(self, reading: StepsReading, missing: Mapping[str, str]) -> dict[str, float]:
        """Returns the norm of each group that is trained and completely read."""
        squares = reading.squares / reading.finite_steps
        sums = np.bincount(self._group_of_row, squares, len(self._names))
        rows = zip(self._group_of_row.tolist(), self._rows, strict=True)
        # A frozen parameter may still have the gradient of a step at which it was trained.
        trained = {group for group, row in rows if row.parameter.requires_grad}
        incomplete = {self.name_of(name) for name in missing}
        return {
            self._names[group]: float(sums[group]) ** 0.5
            for group in sorted(trained)
            if self._names[group] not in incomplete
        }


def _finite_norms(steps: Sequence[StepFacts]) -> np.ndarray:
    norms = [s.grad_norm for s in steps if s.grad_norm is not None and math.isfinite(s.grad_norm)]
    return np.array(norms, dtype=np.float64)


def _rms_of(norms: np.ndarray) -> float:
    return math.sqrt(float(np.square(norms).mean()))
