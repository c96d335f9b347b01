"""What tbtrainer holds for one trainer: its run, its observers, and when they are asked."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tbtrainer.arguments import telemetry_arguments, warn_of_patterns_without_match
from tbtrainer.isolation import Isolation
from tbtrainer.observers.arguments import ArgumentCards
from tbtrainer.observers.checkpoints import Checkpoints, saved_checkpoint
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.deepspeed_engine import observed_engine_step
from tbtrainer.observers.gradient_norms import GradientNorms
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.log_entries import LogEntries
from tbtrainer.observers.loss_scale import loss_scale_of
from tbtrainer.observers.observer import EvaluationBatch, Gradients, Observer
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.overhead_fraction import OverheadFraction
from tbtrainer.observers.record_counters import RecordCounters
from tbtrainer.observers.training import Training
from tbtrainer.run import RunSession


class Telemetry:
    """The run and the observers of one trainer.

    Everything here keeps its errors from the trainer, except what is wrong with its arguments.

    Args:
        trainer: A `Trainer` that is built. On ranks that do not write, observers are asked and
            nothing is written.

    Raises:
        ValueError: An argument cannot be used, as a run directory that cannot be written to.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._arguments = telemetry_arguments(trainer.args)
        self._isolation = Isolation(self._arguments.telemetry_errors)
        self._clock = Clock()
        writes = trainer.is_world_process_zero()
        self.run = RunSession(
            self._arguments.logging_dir,
            trainer.args.output_dir,
            writes=writes,
            isolation=self._isolation,
            private=self._arguments.event_file_private,
            fsync=self._arguments.event_file_fsync,
        )
        self.observers = ObserverSet(
            self._built_in_observers(),
            self.run.write,
            writes=writes,
            isolation=self._isolation,
            clock=self._clock,
        )
        self._model: nn.Module | None = None
        self._engine_step = ExitStack()
        self._uses = 0
        self._entries_shown = 0
        if writes:
            self.run.check()
            names = (name for name, _ in trainer.model.named_parameters())
            warn_of_patterns_without_match(self._arguments, names)

    def _built_in_observers(self) -> list[Observer]:
        """In the order in which their records are written; the overhead last, as it measures."""
        return [
            ArgumentCards(self._trainer.args),
            LogEntries(),
            GradientNorms(self._isolation),
            Histograms(self._isolation),
            Checkpoints(),
            RecordCounters(lambda: self.run.writer.counters),
            OverheadFraction(self._clock),
        ]

    # ---- A run ----

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the run open during a training or an evaluation, which may be inside another."""
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            if self._uses == 0:
                with self._measured("close the run"):
                    self._stop_observing()
                    self.run.close()

    def begin_run(self, checkpoint: str | None, trial_directory: str | None) -> None:
        """Chooses the run directory of a training that begins."""
        with self._measured("begin the run"):
            self.run.begin_training(checkpoint, self._arguments.run_resume, trial_directory)

    def discard_attempt(self) -> None:
        """Stops observing an attempt of `auto_find_batch_size`, which wraps the model anew."""
        with self._measured("discard the telemetry of the previous attempt"):
            self._stop_observing()

    # ---- Steps ----

    def observe(self, model: nn.Module) -> None:
        """Begins to observe the training of a model, unless it is observed already."""
        if model is self._model:
            return
        with self._measured("begin to observe the training"):
            self._stop_observing()
            # Before anything can fail, so that a failure is not repeated at every step.
            self._model = model
            training = Training.of(self._trainer, model, self._arguments)
            self.observers.run_begins(self._step, training)
            if self._trainer.is_deepspeed_enabled:
                # DeepSpeed takes the optimizer step inside `training_step`; gradients end there.
                self._engine_step.enter_context(observed_engine_step(model, self._gradients_ready))

    def micro_batch_taken(self, loss: Tensor) -> None:
        """Shows a micro-batch, and the gradients if they are complete with it."""
        self.observers.micro_batch_taken(self._step + 1, loss)
        if self._trainer.accelerator.sync_gradients and not self._trainer.is_deepspeed_enabled:
            self._gradients_ready()

    def step_taken(self) -> None:
        """Shows an optimizer step, and a logging step if it is one."""
        if self._model is None:  # A `training_step` that does not call the one here.
            self.observe(self._trainer.model_wrapped)
        self.observers.step_taken(self._step)
        if self._trainer.control.should_log:
            self.observers.logging_step(self._step)

    def end_run_if_last_step(self) -> None:
        """Shows the end of the run when no step follows."""
        if self._trainer.control.should_training_stop:
            self.observers.run_ends(self._step)

    @torch.no_grad()
    def _gradients_ready(self) -> None:
        """Reads the gradients of a step once, and shows them."""
        step = self._step + 1
        if self.observers.gradients_are_due(step):
            with self._measured("read the gradients"):
                parts = self.observers.training.parameters.gradients()
                loss_scale = loss_scale_of(self._trainer, self._model)
                self.observers.gradients_ready(step, Gradients(parts, loss_scale))

    # ---- Log entries, evaluations, checkpoints ----

    @contextmanager
    def entries_logged(self) -> Iterator[None]:
        """Shows what is appended to the log history meanwhile."""
        self._entries_shown = known = len(self._trainer.state.log_history)
        yield
        with self._measured("write the logged values"):
            history = self._trainer.state.log_history
            for entry in history[max(known, self._entries_shown) :]:
                self.observers.entry_logged(self._step, entry)
            # A call of `log` within `log` has shown its own.
            self._entries_shown = len(history)
            self.run.flush()

    def evaluation_batch(self, inputs: Any, predicted: tuple[Any, Any, Any]) -> None:
        """Shows a predicted batch."""
        with self._measured("observe an evaluation batch"):
            self.observers.evaluation_batch(self._step, EvaluationBatch(inputs, *predicted))

    def evaluation_ended(self, metrics: dict[str, float]) -> None:
        """Shows the metrics of an evaluation."""
        self.observers.evaluation_ended(self._step, metrics)

    @contextmanager
    def checkpoint(self, trial: Any) -> Iterator[None]:
        """Flushes the run before a checkpoint is saved, and shows the checkpoint afterwards."""
        with self._measured("flush the run before a checkpoint"):
            self.observers.drain()
            self.run.flush_before_checkpoint()
        began = time.perf_counter()
        yield
        with self._measured("show the checkpoint"):
            saved = saved_checkpoint(self._trainer, trial, time.perf_counter() - began)
            self.run.mark_checkpoint(saved.path, self._step)
            self.observers.checkpoint_saved(self._step, saved)
            self.run.flush()

    # ---- ----

    @property
    def _step(self) -> int:
        step: int = self._trainer.state.global_step
        return step

    def _stop_observing(self) -> None:
        self._model = None
        self._engine_step.close()
        self.observers.close()

    @contextmanager
    def _measured(self, what: str) -> Iterator[None]:
        """Measures what a part of the telemetry costs, and keeps its errors from the training."""
        with self._clock.measured(), self._isolation.guard(what):
            yield
