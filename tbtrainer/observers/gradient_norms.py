"""Gradient norms of every step, for almost nothing: kept on the device until a logging step."""

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
    """Gradient norms of a logging window, before clipping.

    Attributes:
        steps: Steps of the window whose gradients were finite.
        nonfinite_steps: Steps with a NaN or an infinity in some gradient; they count nowhere else.
        rms: Root mean square over the steps, by group name. Groups whose parameters are all frozen,
            and groups with a gradient that cannot be read, are left out.
        total: Root mean square over the steps of the norm of all gradients together; `None` while a
            gradient of a trained parameter cannot be read.
        maximum: Largest norm of all gradients together; `None` as `total`.
        clipped: Root mean square of that norm after clipping to `max_grad_norm`; `None` as `total`,
            and without clipping.
        clip_fraction: Share of the steps that were clipped; `None` as `clipped`.
    """

    steps: int
    nonfinite_steps: int
    rms: dict[str, float]
    total: float | None
    maximum: float | None
    clipped: float | None
    clip_fraction: float | None


class GradientNorms:
    """Norms of the gradients, by parameter and step.

    Nothing here waits for the device but `summary`, which is called at logging steps. All memory
    that a rank needs to reach the collectives is allocated here, up front.

    Args:
        table: The parameters, and which part of each this rank counts.
        detail: `"total"`, `"block"` or `"parameter"`.
        max_grad_norm: The norm that gradients are clipped to; 0 means no clipping.
        device: Where the norms are kept.
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

        Under sharding this can be a collective: call it on every rank at the same steps, even if
        the gradients could not be listed.

        Args:
            gradients: From `ParameterTable.gradients` at this step; `None` if that failed.
            loss_scale: What the gradients are still multiplied by, a scalar tensor.
        """
        with self._window.step() as norms:
            try:
                if gradients is None:
                    raise RuntimeError("the gradients could not be listed")
                self._norms.into(norms, gradients)
                if loss_scale is not None:
                    scale = loss_scale.to(norms.dtype)
                    norms.div_(scale.to(norms.device, non_blocking=True))
                for row, reason in (self._table.unread_gradients | self._norms.unreadable).items():
                    if row not in self._unread:
                        self._unread[row] = reason
                        self._window.mark_unread(row)
            except Exception as error:
                # The step is kept: the other ranks will reduce as many.
                self._window.mark_missing()
                self._isolation.report("read the norms of the gradients", error)

    def summary(self) -> GradientNormSummary | None:
        """Returns the window's norms and begins a new window; `None` if it holds no step.

        Waits for the device once. Under sharding this is a collective: call it on every rank.
        """
        # First of all: rows are marked anew in the next window, also if this one cannot be taken.
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

    def _rms(self, squares: "np.ndarray", missing: dict[str, str]) -> dict[str, float]:
        """Norms by group, of the groups that are trained and known."""
        sums = np.bincount(self._group_of_row, squares, len(self._groups))
        rows = zip(self._group_of_row.tolist(), self._table.rows, strict=True)
        # A frozen parameter may have a gradient, left from when it was trained.
        trained = {group for group, row in rows if row.parameter.requires_grad}
        incomplete = {_group_of(name, self._detail) for name in missing}
        return {
            self._groups[group]: float(sums[group]) ** 0.5
            for group in sorted(trained)
            if self._groups[group] not in incomplete
        }

    def _missing(self, unread_anywhere: "np.ndarray", unread: dict[int, str]) -> dict[str, str]:
        """The trained parameters whose gradient is unknown, with the reason, by name.

        Args:
            unread_anywhere: Whether some rank could not read a gradient, by row.
            unread: The rows that this rank could not read, with the reason.
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
                "The norm of all gradients together, its maximum and what is clipped of it are "
                "left out while the gradients of %d trained parameters cannot be read. One of them "
                "is %s: %s.",
                len(missing),
                name,
                reason,
            )


def _group_of(name: str, detail: str) -> str:
    if detail == "parameter":
        return name
    return block_name(name) if detail == "block" else "total"
