"""Calls the observers at the moments of each optimizer step, and reads the gradients once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.observers.deepspeed_engine import observed_engine_step
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.loss_scale import loss_scale_of
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.training import Training
from tbtrainer.step_guard import StepGuard
from tbtrainer.wrapping import wrapped_on_instance

logger = logging.getLogger(__name__)


class ObservedSteps:
    """Reports the optimizer steps of a trainer to its observers, from the first micro-batch on.

    Args:
        trainer: A `Trainer`.
        arguments: What is shown.
        observers: They are called at each moment.
        guard: Keeps bad steps from being taken.
    """

    def __init__(
        self,
        trainer: Any,
        arguments: TensorBoardArguments,
        observers: ObserverSet,
        guard: StepGuard,
    ) -> None:
        self._trainer = trainer
        self.arguments = arguments
        self._observers = observers
        self._guard = guard
        # The model whose training is observed, as `training_step` gets it; `None` outside of it.
        self._model: nn.Module | None = None
        # Holds the wrapper around DeepSpeed's `engine.step` while a training is observed.
        self._engine_step = ExitStack()
        self._is_in_step = self._is_in_loss = self._is_fetching = False
        # The step after which `training_step` has not been called; `None` once it has been.
        self._unseen_from: int | None = None

    @property
    def count(self) -> int:
        """Optimizer steps taken so far."""
        count: int = self._trainer.state.global_step
        return count

    @contextmanager
    def outermost_observed(self) -> Iterator[None]:
        """Wraps the trainer's outermost methods of a step while open.

        A subclass may override `training_step` without calling `super()`. Its gradients are
        observed as well, because the wrapper is an attribute of the instance.
        """
        with (
            wrapped_on_instance(self._trainer, "get_batch_samples", self._observed_fetch),
            wrapped_on_instance(self._trainer, "_get_num_items_in_batch", self._observed_count),
            wrapped_on_instance(self._trainer, "training_step", self.observed_step),
            wrapped_on_instance(self._trainer, "compute_loss", self._observed_forward),
        ):
            yield

    def _observed_fetch(self, fetch: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a `get_batch_samples`, and shows when the data was requested and received."""
        self._observers.data_requested(self.count + 1)
        self._is_fetching = True
        try:
            fetched = fetch(*args, **kwargs)
            if isinstance(fetched, tuple | list):
                self._received(fetched[0])
        finally:
            self._is_fetching = False
        return fetched

    def _observed_count(self, count: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a `_get_num_items_in_batch`, and shows before it that the data was received.

        `get_batch_samples` calls it when it has the data (transformers 4.57 to 5.24). It may wait
        for the data of other ranks.
        """
        self._received(next(iter((*args, *kwargs.values())), []))
        return count(*args, **kwargs)

    def _received(self, micro_batches: Any) -> None:
        # An evaluation counts its labels too, but does not fetch its batches here.
        if self._is_fetching:
            self._is_fetching = False
            self._observers.data_received(self.count + 1, micro_batches)

    def _observed_forward(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a `compute_loss`, and shows the loss if this is the forward pass of a step.

        An evaluation computes losses too, and one `compute_loss` may call another.
        """
        if not self._is_in_step or self._is_in_loss:
            return compute(*args, **kwargs)
        self._is_in_loss = True
        self._guard.keep(compute, args, kwargs)
        try:
            computed = compute(*args, **kwargs)
        finally:
            self._is_in_loss = False
        loss = computed[0] if isinstance(computed, tuple) else computed
        if isinstance(loss, Tensor):
            self._guard.forward_done(loss)
            self._observers.forward_done(self.count + 1, loss)
        return computed

    def observed_step(self, take: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Calls a `training_step`, then shows its loss and the gradients if they are complete.

        One `training_step` may call another through `super()`. Gradients are complete when the
        outermost returns, so calls inside it observe nothing.

        Args:
            take: The `training_step` to call.
            args: Its arguments.
            kwargs: Its arguments by keyword.
        """
        if self._is_in_step:
            return take(*args, **kwargs)
        self._observe(kwargs["model"] if "model" in kwargs else args[0])
        self._unseen_from = None
        self._observers.forward_begins(self.count + 1)
        self._is_in_step = True
        try:
            loss = take(*args, **kwargs)
        finally:
            self._is_in_step = False
        self._observers.micro_batch_taken(self.count + 1, loss)
        if self._trainer.accelerator.sync_gradients and not self._trainer.is_deepspeed_enabled:
            self._gradients_ready()
        return loss

    def step_taken(self) -> None:
        """Shows the optimizer step that was taken, and that it is a logging step if it is one."""
        self._look_for_unseen_steps()
        self._guard.step_taken(self.count)
        self._observers.step_taken(self.count)
        if self._trainer.control.should_log:
            self._observers.logging_step(self.count)

    def end_run_if_last_step(self) -> None:
        """Shows the end of the run when no step follows."""
        if self._trainer.control.should_training_stop:
            self._observers.run_ends(self.count)

    def _observe(self, model: nn.Module) -> None:
        """Begins to observe the training of a model, unless it is observed already."""
        if model is self._model:
            return
        training = None
        with self._observers.guarded("stop observing another model"):
            self.stop()
        with self._observers.guarded("list what is trained"):
            # Set before anything can fail, so that a failure is not repeated at every step.
            self._model = model
            training = Training.of(self._trainer, model, self.arguments)
        with self._observers.guarded("begin to observe the training"):
            # Also without a description: the other ranks wait in a collective for this one.
            self._guard.begin(self.arguments.nonfinite_action, self.count)
            self._observers.run_begins(self.count, training)
            if self._trainer.is_deepspeed_enabled:
                # DeepSpeed takes the optimizer step inside `training_step`, and then the gradients
                # are gone.
                self._engine_step.enter_context(observed_engine_step(model, self._gradients_ready))

    def stop(self) -> None:
        """Stops observing the training, if one is observed."""
        self._model = None
        self._guard.end()
        self._engine_step.close()
        self._observers.close()

    def _gradients_ready(self) -> bool:
        """Reads the gradients once per step, and shows them.

        Returns:
            Whether the optimizer step may be taken.
        """
        step = self.count + 1
        training = self._observers.training
        if training is not None and self._observers.gradients_are_due(step):
            gradients = None
            with self._observers.guarded("read the gradients"):
                parts = training.parameters.gradients()
                gradients = Gradients(parts, loss_scale_of(self._trainer.accelerator, self._model))
            # Also where they could not be read: an observer may have a collective to reach.
            self._observers.gradients_ready(step, gradients)
            return not self._guard.refuses(step, gradients)
        return True

    def _look_for_unseen_steps(self) -> None:
        """Warns once if the training loop takes its steps without calling `training_step`."""
        if self._model is None:
            self._observe(self._trainer.model_wrapped)
            self._unseen_from = self.count
        elif self._unseen_from is not None and self.count > self._unseen_from:
            self._unseen_from = None
            if self._trainer.is_world_process_zero():
                logger.warning(
                    "Gradients are not shown, because the training loop of %s does not call the "
                    "training_step of tbtrainer. To show them, call self.training_step(...) in the "
                    "loop, and super().training_step(...) in a training_step of your own. "
                    "Parameters and scalars are shown.",
                    type(self._trainer).__name__,
                )
