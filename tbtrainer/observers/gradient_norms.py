"""Gradient norms of every step, summed up at logging steps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.norm_window import NormWindow
from tbtrainer.sharding import ParameterTable
from tbtrainer.sharding.parameter_names import block_name
from tbtrainer.statistics.norms import TensorNorms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradientNormSummary:
    """The gradient norms of one logging window, before clipping.

    The total norm of a step is the norm of all gradients together.

    Attributes:
        steps: Steps of the window whose gradients are all finite. The norms are of these steps.
        nonfinite_steps: Steps with a NaN or an infinity in some gradient.
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
    nonfinite_steps: int
    rms: dict[str, float]
    total: float | None
    maximum: float | None
    clipped: float | None
    clip_fraction: float | None


class GradientNorms:
    """Measures the norms of the gradients at every step, and sums them up at logging steps.

    Only `summary` waits for the device. All memory that a rank needs to take part in the
    collectives is allocated when the object is made.

    Args:
        table: The parameters, and which part of each this rank counts.
        detail: `"total"`, `"block"` or `"parameter"`.
        max_grad_norm: The norm that gradients are clipped to; 0 means no clipping.
        device: The device on which the norms are kept.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        table: ParameterTable,
        detail: str,
        max_grad_norm: float,
        device: torch.device,
        isolation: Isolation,
    ) -> None:
        self._isolation = isolation
        self._table = table
        self._max_grad_norm = max_grad_norm
        self._detail = detail
        groups = [_group_of(row.name, detail) for row in table.rows]
        self._groups = list(dict.fromkeys(groups))
        number_of = {group: number for number, group in enumerate(self._groups)}
        self._group_of_row = np.array([number_of[group] for group in groups], dtype=np.int64)
        self._norms = TensorNorms(len(table.rows), device)
        self._window = NormWindow(
            len(table.rows),
            self._norms.dtype,
            self._norms.unit,
            device,
            max_grad_norm,
            table.needs_reduction,
        )
        self._unread: dict[int, str] = {}
        self._warned_of_missing = False

    def accumulate(
        self, gradients: Sequence[Tensor | None] | None, loss_scale: Tensor | None = None
    ) -> None:
        """Adds the gradients of one optimizer step.

        Under sharding some calls are a collective, so every rank has to call this at the same
        steps, also if it could not read its gradients.

        Args:
            gradients: The result of `ParameterTable.gradients` at this step; `None` if it failed.
            loss_scale: Loss scale that the gradients are still multiplied by, a scalar tensor.
        """
        with self._window.step() as norms:
            try:
                if gradients is None:
                    raise RuntimeError("the gradients could not be read")
                self._norms.into(norms, gradients)
                if loss_scale is not None:
                    scale = loss_scale.to(norms.dtype)
                    norms.div_(scale.to(norms.device, non_blocking=True))
                for row, reason in (self._table.unread_gradients | self._norms.unreadable).items():
                    if row not in self._unread:
                        self._unread[row] = reason
                        self._window.mark_unread(row)
            except Exception as error:
                # The step is kept, because every rank has to reduce the same number of steps.
                self._window.mark_missing()
                self._isolation.report("read the norms of the gradients", error)

    def summary(self) -> GradientNormSummary | None:
        """Returns the norms of the window, and begins a new window.

        Waits for the device once. Under sharding this is a collective, so every rank has to call it
        at the same steps.

        Returns:
            The norms; `None` if the window has no step that every rank could measure.
        """
        # Reset before anything can fail: in the next window unread rows have to be marked again.
        unread, self._unread = self._unread, {}
        window = self._window.taken()
        if window is None or window.finite_steps + window.nonfinite_steps == 0:
            return None
        steps = max(window.finite_steps, 1)
        missing = self._missing(window.unread, unread)
        if self._table.is_world_process_zero or unread:
            self._warn_of_missing(missing)
        total = maximum = clipped = clip_fraction = None
        if not missing:
            total = (float(window.squares.sum()) / steps) ** 0.5
            maximum = window.largest_square**0.5
            if self._max_grad_norm > 0:
                clipped = (window.clipped_squares / steps) ** 0.5
                clip_fraction = window.clipped_steps / steps
        return GradientNormSummary(
            steps=window.finite_steps,
            nonfinite_steps=window.nonfinite_steps,
            rms=self._rms(window.squares / steps, missing) if self._detail != "total" else {},
            total=total,
            maximum=maximum,
            clipped=clipped,
            clip_fraction=clip_fraction,
        )

    def _rms(self, squares: np.ndarray, missing: dict[str, str]) -> dict[str, float]:
        """Returns the norm of each group that is trained and completely read."""
        sums = np.bincount(self._group_of_row, squares, len(self._groups))
        rows = zip(self._group_of_row.tolist(), self._table.rows, strict=True)
        # A frozen parameter may still have the gradient of a step at which it was trained.
        trained = {group for group, row in rows if row.parameter.requires_grad}
        incomplete = {_group_of(name, self._detail) for name in missing}
        return {
            self._groups[group]: float(sums[group]) ** 0.5
            for group in sorted(trained)
            if self._groups[group] not in incomplete
        }

    def _missing(self, unread_anywhere: np.ndarray, unread: dict[int, str]) -> dict[str, str]:
        """Returns why the gradient of a trained parameter is unknown, by the parameter's name.

        Args:
            unread_anywhere: Whether some rank could not read a gradient, by row.
            unread: Why this rank could not read a gradient, by row.
        """
        missing = {
            refused.name: refused.reason
            for refused in self._table.refused
            if refused.parameter.requires_grad
        }
        for index, row in enumerate(self._table.rows):
            if row.adapter.gradient_problem is not None and row.parameter.requires_grad:
                missing[row.name] = row.adapter.gradient_problem
            elif unread_anywhere[index]:
                missing[row.name] = unread.get(index, "another rank cannot read it, see its log")
        return missing

    def _warn_of_missing(self, missing: dict[str, str]) -> None:
        if missing and not self._warned_of_missing:
            self._warned_of_missing = True
            name, reason = next(iter(missing.items()))
            logger.warning(
                "The total gradient norm, its maximum, the clipped norm and the share of clipped "
                "steps are not shown while the gradients of %d trained parameter(s) cannot be "
                "read. One of them is %s: %s.",
                len(missing),
                name,
                reason,
            )


def _group_of(name: str, detail: str) -> str:
    if detail == "parameter":
        return name
    return block_name(name) if detail == "block" else "total"
