"""Which moments the optimizer steps of a trainer have, and when its gradients are complete."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.deepspeed_engine import observed_engine_step
from tbtrainer.observers.loss_scale import loss_scale_of
from tbtrainer.observers.observer import Gradients
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.training import Training

logger = logging.getLogger(__name__)


class ObservedSteps:
    """Shows the observers each step of a training, from its first micro-batch on.

    Args:
        trainer: A `Trainer`.
        arguments: What is shown.
        observers: Who is asked.
        clock: Measures what this costs.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        trainer: Any,
        arguments: TensorBoardArguments,
        observers: ObserverSet,
        clock: Clock,
        isolation: Isolation,
    ) -> None:
        self._trainer = trainer
        self._arguments = arguments
        self._observers = observers
        self._clock = clock
        self._isolation = isolation
        self._model: nn.Module | None = None
        self._engine_step = ExitStack()
        self._is_in_step = False
        # The step at which the loop was found to take steps of its own.
        self._unseen_from: int | None = None

    @contextmanager
    def outermost_observed(self) -> Iterator[None]:
        """Observes `training_step` from outside: one that a user wrote need not call ours."""
        own = vars(self._trainer)
        before = own.get("training_step")
        own["training_step"] = partial(self.observed_step, self._trainer.training_step)
        try:
            yield
        finally:
            if before is None:
                del own["training_step"]
            else:
                own["training_step"] = before

    def observed_step(self, take: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Calls `take`, a `training_step`, and shows the gradients that it leaves.

        A step may call the one that it overrides. Gradients are complete after the outermost.
        """
        if self._is_in_step:
            return take(*args, **kwargs)
        self._observe(kwargs["model"] if "model" in kwargs else args[0])
        self._unseen_from = None
        self._is_in_step = True
        try:
            loss = take(*args, **kwargs)
        finally:
            self._is_in_step = False
        self._observers.micro_batch_taken(self._step + 1, loss)
        if self._trainer.accelerator.sync_gradients and not self._trainer.is_deepspeed_enabled:
            self._gradients_ready()
        return loss

    def step_taken(self) -> None:
        """Shows an optimizer step, and a logging step if it is one."""
        self._look_for_unseen_steps()
        self._observers.step_taken(self._step)
        if self._trainer.control.should_log:
            self._observers.logging_step(self._step)

    def end_run_if_last_step(self) -> None:
        """Shows the end of the run when no step follows."""
        if self._trainer.control.should_training_stop:
            self._observers.run_ends(self._step)

    def _observe(self, model: nn.Module) -> None:
        """Begins to observe the training of a model, unless it is observed already."""
        if model is self._model:
            return
        training = None
        with self._measured("list what is trained"):
            self.stop()
            # Before anything can fail, so that a failure is not repeated at every step.
            self._model = model
            training = Training.of(self._trainer, model, self._arguments)
        with self._measured("begin to observe the training"):
            # Also without a training: the other ranks wait in a collective for this one.
            self._observers.run_begins(self._step, training)
            if self._trainer.is_deepspeed_enabled:
                # DeepSpeed takes the optimizer step inside `training_step`; gradients end there.
                self._engine_step.enter_context(observed_engine_step(model, self._gradients_ready))
        # Setting up is in no window.
        self._clock.restart()

    def stop(self) -> None:
        """Ends the observation of a training, if one is observed."""
        self._model = None
        self._engine_step.close()
        self._observers.close()

    @torch.no_grad()
    def _gradients_ready(self) -> None:
        """Reads the gradients of a step once, and shows them."""
        step = self._step + 1
        training = self._observers.training
        if training is not None and self._observers.gradients_are_due(step):
            gradients = None
            with self._clock.measured(), self._isolation.guard("read the gradients"):
                parts = training.parameters.gradients()
                gradients = Gradients(parts, loss_scale_of(self._trainer, self._model))
            # Also without gradients: an observer may have a collective to reach.
            self._observers.gradients_ready(step, gradients)

    def _look_for_unseen_steps(self) -> None:
        """Warns once if the loop takes its steps without `training_step`."""
        if self._model is None:
            self._observe(self._trainer.model_wrapped)
            self._unseen_from = self._step
        elif self._unseen_from is not None and self._step > self._unseen_from:
            self._unseen_from = None
            if self._trainer.is_world_process_zero():
                logger.warning(
                    "Gradients are not shown: the training loop of %s does not call the "
                    "training_step of tbtrainer. Call super().training_step(...) and they are. "
                    "Parameters and scalars are shown.",
                    type(self._trainer).__name__,
                )

    @property
    def _step(self) -> int:
        step: int = self._trainer.state.global_step
        return step

    @contextmanager
    def _measured(self, what: str) -> Iterator[None]:
        with self._clock.measured(), self._isolation.guard(what):
            yield
