"""Connects a trainer with its observers and its run: when each is called, and in which order."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.evaluations import ObservedEvaluations
from tbtrainer.given_arguments import telemetry_arguments
from tbtrainer.isolation import Isolation
from tbtrainer.log_history import saved_as_json
from tbtrainer.mirroring import check_mirrors, mirrors_of, sent_before_callbacks_end
from tbtrainer.observers.best_metric import BestMetric, early_stopping_of
from tbtrainer.observers.built_in import built_in_observers
from tbtrainer.observers.checkpoints import checkpoint_directory, saved_checkpoint
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.evaluation_panels import (
    EvaluationPanels,
    PanelSetting,
    panel_setting,
)
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.hparams import HParams
from tbtrainer.observers.learning_rates import LearningRates
from tbtrainer.observers.log_entries import LogEntries, class_names
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.run import CHECKPOINT_SECONDS, RunSession, flushed_on_sigterm
from tbtrainer.step_guard import StepGuard
from tbtrainer.steps import ObservedSteps
from tbtrainer.stock_callback import remove_stock_callback
from tbtrainer.unmatched_patterns import warn_of_patterns_without_match

# The longest that a checkpoint waits for records that another thread makes. Histograms take
# milliseconds; a panel of a user's own may draw for a minute.
DRAIN_SECONDS = 10.0


class Telemetry:
    """The run and the observers of one trainer.

    Only `check` and `training` raise errors; others are guarded, unless `telemetry_errors="raise"`.
    Ranks that do not write call the observers as well, because an observer may communicate.

    Args:
        trainer: A `Trainer` whose `args` are set.
        given: The arguments that were passed to the trainer; it may have converted them.
    """

    def __init__(self, trainer: Any, given: TensorBoardArguments | None) -> None:
        self._trainer = trainer
        self._given = given
        self._arguments = telemetry_arguments(trainer.args, given)
        isolation = Isolation(self._arguments.telemetry_errors)
        clock = Clock()
        self._writes: bool = trainer.is_world_process_zero()
        self._mirrors = mirrors_of(trainer, self._arguments.mirror_to, isolation)
        self.run = RunSession(
            self._arguments.logging_dir,
            trainer.args.output_dir,
            writes=self._writes,
            isolation=isolation,
            private=self._arguments.event_file_private,
            fsync=self._arguments.event_file_fsync,
            mirrors=self._mirrors,
        )
        measurements = StepMeasurements(isolation)
        rates = LearningRates()
        reports = HealthReports(measurements, rates.rates_at)
        self._hparams = HParams(lambda: trainer.eval_dataset is not None)
        self.observers = ObserverSet(
            built_in_observers(
                self.run,
                clock,
                measurements,
                reports,
                rates,
                EvaluationPanels(self._panel_setting, lambda: self._evaluations.running, isolation),
                LogEntries(lambda: class_names(trainer.model)),
                BestMetric(partial(early_stopping_of, trainer)),
                self._hparams,
                isolation,
            ),
            self.run.write,
            writes=self._writes,
            isolation=isolation,
            clock=clock,
        )
        guard = StepGuard(trainer, self.observers, measurements, reports)
        self.steps = ObservedSteps(trainer, self._arguments, self.observers, guard)
        self._evaluations = ObservedEvaluations(trainer, self.observers)
        # Trainings and evaluations that are running now, one inside the other.
        self._uses = 0
        # Whether `train` has begun its run. An attempt after a failed one continues it.
        self._run_has_begun = False
        # Calls of `log` that are running now, one inside the other.
        self._open_logs = 0
        # Directory of the checkpoint that is being saved, until it is marked.
        self._unmarked: str | None = None

    def check(self) -> None:
        """Removes stock's TensorBoard callback, and checks the arguments against disk and model.

        Raises:
            ValueError: The run directory cannot be written to. World rank zero only.
        """
        remove_stock_callback(self._trainer)
        if not self._writes:
            return
        self.run.check()
        if self._arguments.histogram_include or self._arguments.histogram_exclude:
            with self.observers.guarded("look for what the patterns match"):
                warn_of_patterns_without_match(self._arguments, self._trainer.model)

    def _panel_setting(self, step: int, dataset: str | None) -> PanelSetting:
        return panel_setting(self._trainer, self._arguments, step, dataset)

    # ---- A run ----

    @contextmanager
    def prediction(self) -> Iterator[None]:
        """Keeps the run's files open during a prediction, which may be inside a training."""
        with self._in_use(self.run.release), self._evaluations.prediction():
            yield

    @contextmanager
    def evaluation(self, prefix: str) -> Iterator[Callable[[dict[str, float]], None]]:
        """Shows the beginning and the end of an evaluation, which may be inside a training.

        Args:
            prefix: The `metric_key_prefix` of `evaluate`.

        Yields:
            A function to be called with the metrics when the evaluation has ended.
        """
        with (
            self._in_use(self.run.release),
            self._evaluations.observed(prefix, self.steps.count) as ended,
        ):
            yield ended

    @contextmanager
    def _in_use(self, close: Callable[[], None]) -> Iterator[None]:
        """Calls `close` at the end, unless this is inside another training or evaluation."""
        remove_stock_callback(self._trainer)
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            if self._uses == 0:
                try:
                    with self.observers.guarded("write the last records"):
                        self.observers.drain()
                finally:
                    with self.observers.guarded("close the run"):
                        close()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keeps the run's files open during a training, and flushes them when SIGTERM comes.

        Raises:
            ValueError: A tracker of `mirror_to` has no run. On all ranks.
        """
        check_mirrors(self._mirrors, self._trainer.args, self._given, self._writes)
        self._run_has_begun = False
        # Python runs signal handlers only between bytecodes, so a rank blocked in a collective
        # could not run one; only world rank zero installs it.
        flush = partial(self.run.flush, CHECKPOINT_SECONDS)
        killed = partial(self._show_end, SystemExit())
        on_sigterm = flushed_on_sigterm(flush, killed) if self._writes else nullcontext()
        with on_sigterm, self._in_use(self.run.close):
            try:
                yield
                self._show_end(None)
            except BaseException as error:
                self._show_end(error)
                raise
            finally:
                with self.observers.guarded("stop observing the training"):
                    self.steps.stop()

    def _show_end(self, error: BaseException | None) -> None:
        """Shows how the training ended, by an error or without one."""
        with self.observers.guarded("show how the training ended"):
            if self.run.is_open:
                self.run.write(self._hparams.ended(error), self.steps.count)

    @contextmanager
    def attempt(self, checkpoint: str | None, trial: Any) -> Iterator[None]:
        """Observes one attempt at a training; `auto_find_batch_size` can make several.

        Args:
            checkpoint: The checkpoint to resume from; `None` if the training begins anew.
            trial: Of a hyper-parameter search, or `None`.
        """
        with self.observers.guarded("discard the telemetry of the previous attempt"):
            self.steps.stop()
            # The user may have given the trainer other arguments since it was built.
            self._arguments = telemetry_arguments(self._trainer.args, self._given)
            self.steps.arguments = self._arguments
        if not self._run_has_begun:
            self._run_has_begun = True
            with self.observers.guarded("begin the run"):
                self._begin_run(checkpoint, trial)
        sent = sent_before_callbacks_end(self._trainer, self._mirrors, self.observers)
        with self.steps.outermost_observed(), sent:
            yield

    def _begin_run(self, checkpoint: str | None, trial: Any) -> None:
        # Now, so that states of an earlier training are not loaded if an error follows.
        self.observers.saved_states = {}
        self._hparams.begin(trial)
        name = None
        if trial is not None:
            name = os.path.basename(self._trainer._get_output_dir(trial))
        output_dir = self._trainer.args.output_dir
        self.run.begin_training(checkpoint, self._arguments.run_resume, name, output_dir)
        self.observers.saved_states = self.run.saved_observers

    # ---- Log entries, evaluations, checkpoints ----

    @contextmanager
    def entries_logged(self, logs: dict[str, Any]) -> Iterator[None]:
        """Shows the entries that are added to the log history while open.

        Args:
            logs: What `log` was called with. Stock adds "step" to an entry. If `logs` has a "step"
                of its own, that one is shown as a value.
        """
        known = len(self._trainer.state.log_history)
        with self._in_use(self.run.release):
            # `log` may call itself. The outermost call shows all entries, once each.
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
            step = values.pop("step", self.steps.count)
            if "step" in logs:
                values["step"] = logs["step"]
            self.observers.entry_logged(step, values)
        with self.observers.guarded("flush the run after a log entry"):
            self.run.flush()

    def evaluation_batch(self, inputs: Any, predicted: Any) -> None:
        """Shows a predicted batch: loss, logits and labels."""
        self._evaluations.batch_predicted(self.steps.count, inputs, predicted)

    @contextmanager
    def checkpoint(self, trial: Any) -> Iterator[None]:
        """Flushes the run before a checkpoint is saved, and shows the checkpoint afterwards."""
        self.observers.checkpoint_begins(self.steps.count)
        with self.observers.guarded("flush the run before a checkpoint"):
            self.observers.drain(DRAIN_SECONDS)
            self.run.flush(CHECKPOINT_SECONDS)
        path = checkpoint_directory(self._trainer, trial)
        began = time.perf_counter()
        self._unmarked = path
        try:
            with saved_as_json(self._trainer.state):
                yield
            # Another trainer in the class order may save without `save_model`, or elsewhere.
            if os.path.isdir(path):
                self.mark_checkpoint(path)
        finally:
            self._unmarked = None
        saved = saved_checkpoint(self._trainer, path, time.perf_counter() - began)
        # On every rank, whether it sees the files or not: an observer may communicate.
        self.observers.checkpoint_saved(self.steps.count, saved)
        with self.observers.guarded("flush the run after a checkpoint"):
            self.run.flush()

    def state_saved(self) -> AbstractContextManager[None]:
        """Lets the trainer save its state outside of a checkpoint, whatever was logged."""
        return saved_as_json(self._trainer.state)

    def mark_checkpoint(self, path: str | None) -> None:
        """Stores the run in the checkpoint that is being saved, if `path` is that checkpoint."""
        if path is None or path != self._unmarked:
            return
        self._unmarked = None
        if self._writes:
            with self.observers.guarded("mark the checkpoint"):
                # Under FSDP with sharded states, `save_model` has not made the directory yet.
                os.makedirs(path, exist_ok=True)
                self.run.mark_checkpoint(path, self.steps.count, self.observers.states())
