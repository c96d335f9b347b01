"""Gradient norms and losses of every step, read at logging steps."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.step_facts import StepsReading
from tbtrainer.observers.step_window import StepWindow
from tbtrainer.sharding import ParameterTable
from tbtrainer.statistics.norms import TensorNorms

logger = logging.getLogger(__name__)


class GradientNorms:
    """Measures the norms of the gradients at every step, by row.

    Only `read` waits for the device. All memory that a rank needs to take part in the collectives
    is allocated when the object is made.

    Args:
        table: The parameters, and which part of each this rank counts.
        device: The device on which the norms are kept.
        isolation: What happens to an error.

    Attributes:
        missing: Why the gradient of a trained parameter is unknown, by the parameter's name, as of
            the last reading.
    """

    def __init__(self, table: ParameterTable, device: torch.device, isolation: Isolation) -> None:
        self.missing: dict[str, str] = {}
        self._isolation = isolation
        self._table = table
        self._norms = TensorNorms(len(table.rows), device)
        self._window = StepWindow(
            len(table.rows),
            self._norms.dtype,
            self._norms.unit,
            device,
            table.needs_reduction,
        )
        self._unread: dict[int, str] = {}
        # The loss scaler's own tensor, and its value at the newest step.
        self._scaler_scale: Tensor | None = None
        self._loss_scale: Tensor | None = None
        self._warned_of_missing = False

    def accumulate(
        self,
        step: int,
        gradients: Sequence[Tensor | None] | None,
        loss_scale: Tensor | None = None,
    ) -> None:
        """Adds the gradients of one optimizer step.

        With several ranks some calls are a collective, so every rank has to call this at the same
        steps, also if it could not read its gradients.

        Args:
            step: The step's number.
            gradients: The result of `ParameterTable.gradients` at this step; `None` if it failed.
            loss_scale: Loss scale that the gradients are still multiplied by, a scalar tensor.
        """
        self._scaler_scale = self._loss_scale = None
        norms = self._window.new_step(step)
        try:
            if loss_scale is not None:
                # A copy too, because the scaler changes its tensor in place before `complete`.
                self._scaler_scale, self._loss_scale = loss_scale, loss_scale.clone()
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

    def complete(self, step: int, loss: Tensor | None, was_skipped: bool) -> None:
        """Adds what is known of a step when it has been taken.

        Args:
            step: The step's number.
            loss: This rank's loss, a scalar; `None` if it is not known.
            was_skipped: Whether the parameters are known to be as they were. A scaler that has
                reduced its scale since `accumulate` has skipped the step too.
        """
        was_reduced = None
        if self._scaler_scale is not None and self._loss_scale is not None:
            # With a fused optimizer the kernel skips the step by itself, and accelerate's
            # `optimizer_step_was_skipped` is not set (accelerate 1.15, torch 2.13).
            was_reduced = self._scaler_scale < self._loss_scale
        self._window.complete(step, loss, self._loss_scale, was_skipped, was_reduced)

    def newest(self) -> Tensor:
        """Returns the norms of the newest step by row, as far as this rank counts the tensors.

        They are multiples of an unknown unit, so they only tell zero, finite and not finite apart.
        """
        return self._window.newest()

    def read(self) -> StepsReading | None:
        """Returns the steps since the last reading.

        Waits for the device once. With several ranks this is a collective, so every rank has to
        call it at the same steps.

        Returns:
            The steps; `None` if there was none, or if an error lost some of them.
        """
        # Reset before anything can fail: after it, unread rows have to be marked again.
        unread, self._unread = self._unread, {}
        reading = self._window.read()
        if reading is not None:
            self.missing = self._missing(reading.unread, unread)
            if self._table.is_world_process_zero or unread:
                self._warn_of_missing()
        return reading

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

    def _warn_of_missing(self) -> None:
        if self.missing and not self._warned_of_missing:
            self._warned_of_missing = True
            name, reason = next(iter(self.missing.items()))
            logger.warning(
                "The total gradient norm, its maximum, the clipped norm and the share of clipped "
                "steps are not shown while the gradients of %d trained parameter(s) cannot be "
                "read. One of them is %s: %s.",
                len(self.missing),
                name,
                reason,
            )
