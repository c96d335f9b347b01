"""What lies between a moment of a trainer and its observers: the run, the clock, the order."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from transformers.integrations import TensorBoardCallback

from tbtrainer.arguments import (
    TensorBoardArguments,
    telemetry_arguments,
    warn_of_patterns_without_match,
)
from tbtrainer.isolation import Isolation
from tbtrainer.observers.built_in import built_in_observers
from tbtrainer.observers.checkpoints import checkpoint_directory, saved_checkpoint
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.observer import EvaluationBatch
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.run import CHECKPOINT_SECONDS, RunSession, flushed_on_sigterm
from tbtrainer.sharding.parameter_names import clean_name
from tbtrainer.steps import ObservedSteps


class Telemetry:
    """The run and the observers of one trainer.

    Nothing here raises, except for `check`, and except with `telemetry_errors="raise"`. On ranks
    that do not write, observers are asked and nothing is written.

    Args:
        trainer: A `Trainer` that has its arguments.
        given: The arguments that the trainer was built with, if it turned them into others.
    """

    def __init__(self, trainer: Any, given: TensorBoardArguments | None) -> None:
        self._trainer = trainer
        self._arguments = telemetry_arguments(trainer.args, given)
        self._isolation = Isolation(self._arguments.telemetry_errors)
        self._clock = Clock()
        self._writes: bool = trainer.is_world_process_zero()
        self.run = RunSession(
            self._arguments.logging_dir,
            trainer.args.output_dir,
            writes=self._writes,
            isolation=self._isolation,
            private=self._arguments.event_file_private,
            fsync=self._arguments.event_file_fsync,
        )
        self.observers = ObserverSet(
            built_in_observers(trainer.args, self.run, self._clock, self._isolation),
            self.run.write,
            writes=self._writes,
            isolation=self._isolation,
            clock=self._clock,
        )
        self.steps = ObservedSteps(
            trainer, self._arguments, self.observers, self._clock, self._isolation
        )
        self._uses = 0
        self._run_has_begun = False
        self._open_logs = 0
        # The checkpoint that is being saved, until it is marked.
        self._unmarked: str | None = None

    def check(self) -> None:
        """Takes stock's TensorBoard callback out, and raises what is wrong with the arguments.

        Raises:
            ValueError: The run directory cannot be written to. World rank zero only.
        """
        self._remove_stock_callback()
        if self._writes:
            self.run.check()
            names = (clean_name(name) for name, _ in self._trainer.model.named_parameters())
            warn_of_patterns_without_match(self._arguments, names)

    # ---- A run ----

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Keeps the run's files open during an evaluation, which may be inside a training."""
        with self._in_use(self.run.release):
            yield

    @contextmanager
    def _in_use(self, close: Callable[[], None]) -> Iterator[None]:
        """Calls `close` at the end, unless a training or an evaluation around this one goes on."""
        self._remove_stock_callback()
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            if self._uses == 0:
                with self._measured("close the run"):
                    self.observers.drain()
                    close()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keeps the run open during a training, and flushes it when SIGTERM comes."""
        self._run_has_begun = False
        # Python runs signal handlers only between bytecodes, so a rank blocked in a collective
        # could not run one; only world rank zero installs it.
        flush = partial(self.run.flush, CHECKPOINT_SECONDS)
        on_sigterm = flushed_on_sigterm(flush) if self._writes else nullcontext()
        with on_sigterm, self._in_use(self.run.close):
            try:
                yield
            finally:
                with self._measured("stop observing the training"):
                    self.steps.stop()

    @contextmanager
    def attempt(self, checkpoint: str | None, trial: Any) -> Iterator[None]:
        """Observes a training, which is one attempt of several under `auto_find_batch_size`.

        Args:
            checkpoint: The checkpoint that is resumed, if one is.
            trial: Of a hyper-parameter search, or `None`.
        """
        with self._measured("discard the telemetry of the previous attempt"):
            self.steps.stop()
        if not self._run_has_begun:
            self._run_has_begun = True
            with self._measured("begin the run"):
                self._begin_run(checkpoint, trial)
        with self.steps.outermost_observed():
            yield

    def _begin_run(self, checkpoint: str | None, trial: Any) -> None:
        name = None
        if trial is not None:
            name = os.path.basename(self._trainer._get_output_dir(trial))
        output_dir = self._trainer.args.output_dir
        self.run.begin_training(checkpoint, self._arguments.run_resume, name, output_dir)

    def _remove_stock_callback(self) -> None:
        """Takes out the TensorBoard callback that stock adds, so that nothing is written twice."""
        # A new list: this may be called while stock iterates over the old one.
        handler = self._trainer.callback_handler
        handler.callbacks = [c for c in handler.callbacks if not _is_stocks_own(c)]

    # ---- Log entries, evaluations, checkpoints ----

    @contextmanager
    def entries_logged(self, logs: dict[str, Any]) -> Iterator[None]:
        """Shows the entries that are added to the log history meanwhile.

        Args:
            logs: What `log` was called with. Its own "step", if any, is a value like others;
                stock adds one to the entries.
        """
        self._remove_stock_callback()
        known = len(self._trainer.state.log_history)
        # `log` may be called inside itself. The outermost call shows all entries, once each.
        self._open_logs += 1
        try:
            yield
        finally:
            self._open_logs -= 1
            if self._open_logs == 0:
                self._show_entries(self._trainer.state.log_history[known:], logs)

    def _show_entries(self, entries: list[dict[str, Any]], logs: dict[str, Any]) -> None:
        for entry in entries:
            values = dict(entry)
            step = values.pop("step", self._step)
            if "step" in logs:
                values["step"] = logs["step"]
            self.observers.entry_logged(step, values)
        with self._measured("flush the run after a log entry"):
            self.run.flush()

    def evaluation_batch(self, inputs: Any, predicted: Any) -> None:
        """Shows a predicted batch: loss, logits and labels."""
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
            self.run.flush(CHECKPOINT_SECONDS)
        path = checkpoint_directory(self._trainer, trial)
        began = time.perf_counter()
        self._unmarked = path
        try:
            yield
            # A trainer to the right may save without `save_model`, or somewhere else.
            if os.path.isdir(path):
                self.mark_checkpoint(path)
                saved = saved_checkpoint(self._trainer, path, time.perf_counter() - began)
                self.observers.checkpoint_saved(self._step, saved)
                with self._measured("flush the run after a checkpoint"):
                    self.run.flush()
        finally:
            self._unmarked = None

    def mark_checkpoint(self, path: str | None) -> None:
        """Stores the run in the checkpoint that is being saved, if `path` is that checkpoint."""
        if path is None or path != self._unmarked:
            return
        self._unmarked = None
        if self._writes:
            with self._measured("mark the checkpoint"):
                # Under FSDP with sharded states `save_model` has made no directory yet.
                os.makedirs(path, exist_ok=True)
                self.run.mark_checkpoint(path, self._step)

    # ---- Used by all of them ----

    @property
    def _step(self) -> int:
        step: int = self._trainer.state.global_step
        return step

    @contextmanager
    def _measured(self, what: str) -> Iterator[None]:
        """Measures what a part of the telemetry costs, and keeps its errors from the training."""
        with self._clock.measured(), self._isolation.guard(what):
            yield


def _is_stocks_own(callback: Any) -> bool:
    """Whether a callback is the one that stock adds for TensorBoard.

    A subclass of it shows things of its own, and one with a writer was given that by the user.
    """
    return type(callback) is TensorBoardCallback and callback.tb_writer is None
