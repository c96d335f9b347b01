"""Refuses an optimizer step if a loss or a gradient is not finite, and ends the training."""

import logging
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.errors import NonFiniteError
from tbtrainer.observers.facts import Gradients, Refusal
from tbtrainer.observers.health_report import HealthReport
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.second_forward import ForwardPass, first_bad_module
from tbtrainer.sharding.world import largest_on_any_rank, world_size
from tbtrainer.step_findings import Findings, findings_of

logger = logging.getLogger(__name__)


class StepGuard:
    """Ends the training before a step whose loss or gradients are not finite, on all ranks.

    With `nonfinite_action="log"` it does nothing. Otherwise it checks every step. For that the host
    waits for the device once per step, and with several ranks for one small collective. A step with
    an overflow of the float16 loss scale is not refused, because the scaler skips it.

    Args:
        trainer: A `Trainer`.
        observers: Their `step_refused` is called.
        measurements: Measures the gradients of each step.
        reports: Makes the report.
    """

    def __init__(
        self,
        trainer: Any,
        observers: ObserverSet,
        measurements: StepMeasurements,
        reports: HealthReports,
    ) -> None:
        self._trainer = trainer
        self._observers = observers
        self._measurements = measurements
        self._reports = reports
        self._action = "log"
        # The newest step that `refuses` was called for.
        self._looked_at = 0
        self._has_warned = False
        self._forwards: list[ForwardPass] = []
        self._losses: list[Tensor] = []
        self._is_sum = False

    def begin(self, action: str, step: int) -> None:
        """Begins a training.

        Args:
            action: `nonfinite_action`.
            step: Optimizer steps taken so far.
        """
        self._action, self._looked_at, self._has_warned = action, step, False
        self._forget()

    def end(self) -> None:
        """Ends the training. What was kept of its last step is released."""
        self._action = "log"
        self._forget()

    def step_taken(self, step: int) -> None:
        """Releases what was kept of a step that `refuses` was not called for, and warns once.

        Gradients may be out of sight: the loop of a trainer may not call `training_step`, or a
        DeepSpeed engine may have no `step`.

        Args:
            step: The step, counted from 1.
        """
        if not self._looks or step <= self._looked_at:
            return
        self._forget()
        if not self._has_warned and self._trainer.is_world_process_zero():
            logger.warning(
                "nonfinite_action=%r has no effect on step %d and on others like it, because "
                "tbtrainer does not see their gradients. Training continues.",
                self._action,
                step,
            )
        self._has_warned = True

    @property
    def _looks(self) -> bool:
        """Whether steps are looked at."""
        return self._action != "log" and self._observers.is_observing

    def keep(self, compute: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Keeps what is needed to repeat a forward pass that is about to be made."""
        if self._looks:
            with self._observers.guarded("keep a forward pass"):
                self._forwards.append(ForwardPass.of(compute, args, kwargs))
                self._is_sum = _is_scaled(self._trainer, kwargs.get("num_items_in_batch"))

    def forward_done(self, loss: Tensor) -> None:
        """Keeps the loss of a forward pass."""
        if self._looks:
            # A copy, because a model compiled with CUDA graphs writes over its earlier outputs.
            self._losses.append(loss.detach().clone())

    def refuses(self, step: int, gradients: Gradients | None) -> bool:
        """Returns whether a step must not be taken, the same on every rank.

        If it is refused, `step_refused` of the observers is called, and the training ends.

        Args:
            step: The step that would be taken, counted from 1.
            gradients: This rank's gradients; `None` if they could not be read.

        Raises:
            NonFiniteError: With `nonfinite_action="raise"`, on every rank.
        """
        return self._action != "log" and self._is_refused(step, gradients)

    @torch.no_grad()
    def _is_refused(self, step: int, gradients: Gradients | None) -> bool:
        self._looked_at = step
        found = Findings()
        with self._observers.guarded("look for values that are not finite"):
            norms = None if self._measurements.norms is None else self._measurements.norms.newest()
            found = findings_of(self._losses, gradients, norms)
        # Every rank gets here, whatever it found.
        refused = Findings(*largest_on_any_rank(astuple(found))).is_bad
        try:
            if refused:
                self._refuse(step)
        finally:
            self._forget()
        return refused

    def _refuse(self, step: int) -> None:
        """Reports the step, discards its gradients, and ends the training."""
        if not self._trainer.is_deepspeed_enabled:
            # Before the forward passes, after which FSDP2 lists other parameters.
            self._discard_gradients()
        checked, module = self._checked_forward()
        refusal = Refusal(self._action, self._loss(), module, checked)
        self._observers.step_refused(step, refusal)
        if self._action == "raise":
            raise NonFiniteError(self._report(step))
        self._trainer.control.should_training_stop = True
        # Otherwise nothing would say why the training ended.
        if self._new_report() is None and self._trainer.is_world_process_zero():
            logger.warning("nonfinite_action='stop' ended the training: %s", _message(step))

    def _loss(self) -> Tensor | None:
        """Returns this rank's loss of the step, as `training_step` would add it up."""
        if not self._losses:
            return None
        losses = torch.stack([loss.float().mean() for loss in self._losses])
        return losses.sum() if self._is_sum else losses.mean()

    def _checked_forward(self) -> tuple[bool, str | None]:
        """Repeats the forward passes.

        Returns:
            Whether every rank could repeat them, and the name of the bad module or `None`.
        """
        has_failed, module = True, None
        # A `compute_loss` that is repeated may add forward passes.
        forwards, self._forwards = self._forwards, []
        # Without `compute_loss`, or after an error, a rank may have none. If parameters are
        # sharded, the others would wait for it in a forward pass.
        most, negative_least = largest_on_any_rank([float(len(forwards)), -float(len(forwards))])
        if most > 0 and most == -negative_least:
            with self._observers.guarded("repeat the forward pass"):
                module = first_bad_module(self._trainer.model, forwards)
                has_failed = False
        if world_size() > 1:
            found: list[Any] = [None] * world_size()
            dist.all_gather_object(found, (has_failed, module))
            has_failed = any(failed for failed, _ in found)
            module = next((name for _, name in found if name is not None), None)
        return not has_failed, module

    def _discard_gradients(self) -> None:
        """Discards the gradients, so that the optimizer step that follows changes no weight."""
        groups = getattr(self._trainer.optimizer, "param_groups", ())
        # A loss function may have parameters that are not the model's.
        of_optimizer = [parameter for group in groups for parameter in group["params"]]
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        has_scaler = scaler is not None and scaler.is_enabled()
        for parameter in (*self._trainer.model.parameters(), *of_optimizer):
            if not has_scaler:
                parameter.grad = None
            elif parameter.grad is not None:
                # A scaler requires gradients, and skips the step if one of them is not finite.
                is_sparse = parameter.grad.layout == torch.sparse_coo
                values = parameter.grad._values() if is_sparse else parameter.grad
                values.fill_(torch.nan)

    def _new_report(self) -> HealthReport | None:
        """Returns the report on this step; `None` if it failed, and on other ranks."""
        latest = self._reports.latest
        # Without an action it is an earlier one.
        return None if latest is None or latest.action is None else latest

    def _report(self, step: int) -> dict[str, Any]:
        """Returns the report of world rank zero, on every rank."""
        report = self._new_report()
        sent = [{"message": _message(step)} if report is None else report.values()]
        if world_size() > 1:
            dist.broadcast_object_list(sent, src=0)
        return sent[0]

    def _forget(self) -> None:
        self._forwards, self._losses = [], []


def _message(step: int) -> str:
    return f"A loss or a gradient of step {step} was not finite."


def _is_scaled(trainer: Any, items: Any) -> bool:
    """Returns whether losses of micro-batches are added up, as `Trainer.training_step` does it.

    Otherwise it divides them by the number of micro-batches.

    Args:
        trainer: A `Trainer`.
        items: `num_items_in_batch` of the step.
    """
    # Since transformers 5, a trainer may say so itself.
    is_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if is_scaled is not None:
        return bool(is_scaled)
    accepts_items = getattr(trainer, "model_accepts_loss_kwargs", False)
    has_own_loss = getattr(trainer, "compute_loss_func", None) is not None
    return has_own_loss or (accepts_items and items is not None)
