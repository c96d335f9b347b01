"""Keeps an optimizer step from being taken if a loss or a gradient is not finite."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.errors import NonFiniteError
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer import Gradients, Refusal
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.second_forward import ForwardPass, first_bad_module
from tbtrainer.sharding.world import true_on_any_rank, world_size


class StepGuard:
    """Ends the training before a step whose loss or gradients are not finite, on all ranks.

    It looks at every step, unless `nonfinite_action` is `"log"`. Then the host waits for the device
    once per step, and with several ranks for one small collective. An overflow of the float16 loss
    scale is let through: the scaler skips that step.

    Args:
        trainer: A `Trainer`.
        observers: They are told of a step that is refused.
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
        self._forwards: list[ForwardPass] = []
        self._losses: list[Tensor] = []
        self._is_sum = False

    def begin(self, action: str) -> None:
        """Begins a training.

        Args:
            action: `nonfinite_action`.
        """
        self._action = action
        self._forget()

    def end(self) -> None:
        """Ends the training. What was kept of its last step is released."""
        self.begin("log")

    @property
    def _looks(self) -> bool:
        """Whether `refuses` is called at each step, which releases what is kept."""
        return self._action != "log" and self._observers.is_observing

    def keep(self, compute: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Keeps a forward pass of the step that is about to be made."""
        if self._looks:
            with self._observers.guarded("keep a forward pass"):
                self._forwards.append(ForwardPass.of(compute, args, kwargs))
                self._is_sum = _is_scaled(self._trainer, kwargs.get("num_items_in_batch"))

    def forward_done(self, loss: Tensor) -> None:
        """Keeps the loss of a forward pass."""
        if self._looks:
            self._losses.append(loss.detach())

    def refuses(self, step: int, gradients: Gradients | None) -> bool:
        """Returns whether a step must not be taken, the same on every rank.

        If so, the observers are told, and the training ends after this step.

        Args:
            step: The step that would be taken, counted from 1.
            gradients: This rank's gradients; `None` if they could not be read.

        Raises:
            NonFiniteError: With `nonfinite_action="raise"`, on every rank.
        """
        if self._action == "log":
            return False
        bad_loss = bad_gradient = is_overflow = False
        with self._observers.guarded("look for values that are not finite"):
            bad_loss, bad_gradient, is_overflow = self._found(gradients)
        # Every rank gets here, whatever it found.
        bad_loss, bad_gradient, is_overflow = true_on_any_rank(
            [bad_loss, bad_gradient, is_overflow]
        )
        refused = bad_loss or (bad_gradient and not is_overflow)
        try:
            if refused:
                self._refuse(step)
        finally:
            self._forget()
        return refused

    def _found(self, gradients: Gradients | None) -> tuple[bool, bool, bool]:
        """Returns whether this rank has a bad loss, a bad gradient, an overflow of the scale."""
        if gradients is None or self._measurements.norms is None:
            losses = _all_finite(self._losses)
            return not losses, False, False
        norms = self._measurements.norms.newest()
        flags = [_finite(norms)] + [_finite(loss).to(norms.device) for loss in self._losses]
        gradients_fine, *losses_fine = torch.stack(flags).tolist()
        is_overflow = False
        if not gradients_fine and gradients.loss_scale is not None:
            has_infinity = any(bool(p.isinf().any()) for p in gradients.parts if p is not None)
            is_overflow = has_infinity and float(gradients.loss_scale) >= 1
        return not all(losses_fine), not gradients_fine, is_overflow

    def _refuse(self, step: int) -> None:
        """Reports the step, keeps it from changing a weight, and ends the training."""
        checked, module = self._checked_forward()
        refusal = Refusal(self._action, self._loss(), module, checked)
        self._observers.step_refused(step, refusal)
        if not self._trainer.is_deepspeed_enabled:
            self._discard_gradients()
        if self._action == "raise":
            raise NonFiniteError(self._report())
        self._trainer.control.should_training_stop = True

    def _loss(self) -> Tensor | None:
        """Returns this rank's loss of the step, as `training_step` would add it up."""
        if not self._losses:
            return None
        losses = torch.stack([loss.float().mean() for loss in self._losses])
        return losses.sum() if self._is_sum else losses.mean()

    def _checked_forward(self) -> tuple[bool, str | None]:
        """Repeats the forward passes; returns whether every rank could, and the bad module."""
        has_failed, module = True, None
        # A `compute_loss` that is repeated may add forward passes.
        forwards, self._forwards = self._forwards, []
        with self._observers.guarded("repeat the forward pass"):
            module = first_bad_module(self._trainer.model, forwards)
            # Without `compute_loss`, there is no forward pass that could be repeated.
            has_failed = not forwards
        if world_size() > 1:
            found: list[Any] = [None] * world_size()
            dist.all_gather_object(found, (has_failed, module))
            has_failed = any(failed for failed, _ in found)
            module = next((name for _, name in found if name is not None), None)
        return not has_failed, module

    def _discard_gradients(self) -> None:
        """Makes the optimizer step that follows an empty one."""
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

    def _report(self) -> dict[str, Any]:
        """Returns the report of world rank zero, on every rank."""
        latest = self._reports.latest
        # Without an action it is an earlier one, and the report on this step failed.
        is_new = latest is not None and latest.action is not None
        message = "A loss or a gradient was not finite."
        sent = [latest.values() if latest is not None and is_new else {"message": message}]
        if world_size() > 1:
            dist.broadcast_object_list(sent, src=0)
        return sent[0]

    def _forget(self) -> None:
        self._forwards, self._losses = [], []


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


def _finite(values: Tensor) -> Tensor:
    return values.isfinite().all()


def _all_finite(losses: list[Tensor]) -> bool:
    return all(bool(_finite(loss)) for loss in losses)
