"""`TBTrainer`: Hugging Face's `Trainer` with a window into the training.

The overrides stand in the order of a run: the run directory is chosen, training begins, a step is
taken, its gradients and parameters are read, the step is logged, evaluation is logged, a checkpoint
is saved and marked, the run is closed. Each calls `Trainer`'s own method and changes nothing of it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import Seq2SeqTrainer, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    has_length,
)

from tbtrainer.arguments import (
    TensorBoardArguments,
    convertible,
    given_arguments,
    telemetry_arguments,
)
from tbtrainer.isolation import Isolation
from tbtrainer.observers.checkpoints import show_checkpoint
from tbtrainer.observers.deepspeed_engine import engine_loss_scale, observed_engine_step
from tbtrainer.observers.log_entries import records
from tbtrainer.observers.overhead import Overhead
from tbtrainer.observers.schedule import SnapshotSchedule, steps_per_epoch
from tbtrainer.redaction import redacted_json
from tbtrainer.run import (
    RunSession,
    RunWriter,
    SilentWriter,
    flushed_on_sigterm,
)
from tbtrainer.signatures import show_extended_signatures
from tbtrainer.telemetry import Telemetry, warn_of_patterns_without_match

logger = logging.getLogger(__name__)


# Type checkers see `Trainer`'s attributes; at run time the mixin has no base of its own, so that it
# goes before any subclass of `Trainer`.
_AnyTrainer: Any = Trainer if TYPE_CHECKING else object


class TBTrainerMixin(_AnyTrainer):
    """Puts TensorBoard into any subclass of `Trainer`.

    Name it first, so that its overrides see what the others log:

    ```python
    class MyTrainer(TBTrainerMixin, SFTTrainer): ...
    ```

    Arguments, return values, log history and checkpoints are those of the trainer it is mixed
    into, and the weights after training are the same to the last bit. Only world rank zero writes.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_extended_signatures(TBTrainerMixin, cls)

    # ---- The run directory is chosen ----

    # Names of our own, for no trainer this is mixed into to have them already. What they hold is
    # made at first use: a trainer to the right may log, evaluate or train in its `__init__`.
    _tb_telemetry: Telemetry | None = None
    _tb_model: torch.nn.Module | None = None
    _tb_given: TensorBoardArguments | None = None
    _tb_open_logs = 0
    _tb_open_evaluations = 0
    _tb_trains = False
    _tb_in_step = False
    _tb_unseen_from: int | None = None
    _tb_run_begun = False
    # The checkpoint that is being saved, until it is marked.
    _tb_unmarked: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tb_given = given_arguments([*args, *kwargs.values()])
        with convertible(self._tb_given):
            super().__init__(*args, **kwargs)
        self._remove_stock_callback()
        if self.is_world_process_zero():
            self._tb_run.check()
            warn_of_patterns_without_match(
                self._tb_arguments, (n for n, _ in self.model.named_parameters())
            )

    @cached_property
    def _tb_arguments(self) -> TensorBoardArguments:
        return telemetry_arguments(self.args, self._tb_given)

    @cached_property
    def _tb_isolation(self) -> Isolation:
        return Isolation(self._tb_arguments.telemetry_errors)

    @cached_property
    def _tb_overhead(self) -> Overhead:
        return Overhead()

    @cached_property
    def _tb_while_observed(self) -> ExitStack:
        return ExitStack()

    @cached_property
    def _tb_refused_keys(self) -> set[str]:
        return set()

    @cached_property
    def _tb_run(self) -> RunSession:
        return RunSession(
            self._tb_arguments.logging_dir,
            self.args.output_dir,
            writes=self.is_world_process_zero(),
            isolation=self._tb_isolation,
            private=self._tb_arguments.event_file_private,
            fsync=self._tb_arguments.event_file_fsync,
        )

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The run's `SummaryWriter`; elsewhere than on world rank zero a silent double.

        Write at `state.global_step`: when the training is resumed from a checkpoint, records with a
        later step are taken out.
        """
        return self._tb_run.writer

    def _remove_stock_callback(self) -> None:
        """Takes out the TensorBoard callback that stock adds, so that nothing is written twice."""
        # A new list: this may be called while stock iterates over the old one.
        self.callback_handler.callbacks = [
            callback for callback in self.callback_handler.callbacks if not _is_stocks_own(callback)
        ]

    # ---- Training begins, and ends ----

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, in one run directory.

        A training resumed from a checkpoint goes on in the checkpoint's run. A fresh one never
        mixes with the events of another.
        """
        self._remove_stock_callback()
        self._tb_run_begun = False
        # A handler of Python's runs between two steps of Python alone: other ranks, which may be
        # waiting in a collective, keep their own way to end.
        writes = self.is_world_process_zero()
        with flushed_on_sigterm(self._tb_run.settle) if writes else nullcontext():
            self._tb_trains = True
            try:
                return super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                self._tb_trains = False
                self._end_training()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Begins the run, then trains as `Trainer` does.

        `Trainer.train` has by now checked the checkpoint, built the model and chosen the trial's
        hyper-parameters. It calls this method once per attempt of `auto_find_batch_size`; the run
        is that of the first attempt.
        """
        with self._tb_isolation.guard("discard the telemetry of the previous attempt"):
            self._stop_telemetry()
        if not self._tb_run_begun:
            self._tb_run_begun = True
            with self._tb_isolation.guard("begin the run"):
                # By position in the signature of transformers 4.57 and 5.
                names = ("batch_size", "args", "resume_from_checkpoint", "trial")
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                self._begin_run(given.get("resume_from_checkpoint"), given.get("trial"))
        with self._outermost_training_step_observed():
            return super()._inner_training_loop(*args, **kwargs)

    def _begin_run(self, checkpoint: str | None, trial: Any) -> None:
        """Chooses the run directory of the training that begins."""
        directory = self._get_output_dir(trial) if trial is not None else None
        self._tb_run.begin_training(
            checkpoint=checkpoint,
            resume=self._tb_arguments.run_resume,
            trial_name=os.path.basename(directory) if directory is not None else None,
        )

    def _begin_telemetry(self, model: torch.nn.Module) -> None:
        """Looks at the model as it is trained: wrapped, sharded, on its device."""
        if self._tb_model is model:
            return
        writer: RunWriter | None = None
        with self._observing("open the run"):
            writer = self.writer if isinstance(self.writer, RunWriter) else None
        # Whatever happened to the writer: the ranks look at their parameters together.
        with self._observing("look at the model's parameters"):
            self._stop_telemetry()
            self._tb_model = model
            self._tb_telemetry = Telemetry(
                model,
                self._tb_arguments,
                self._snapshot_schedule(),
                writer,
                self.args.device,
                self.args.max_grad_norm or 0.0,
                self._tb_isolation,
            )
            if self.is_deepspeed_enabled:
                # DeepSpeed takes the optimizer step inside `training_step`; gradients end there.
                self._tb_while_observed.enter_context(
                    observed_engine_step(model, self._observe_gradients)
                )
        with self._observing("write the arguments"):
            self._show_arguments()
        # Setting up is in no window.
        self._tb_overhead.restart()

    def _snapshot_schedule(self) -> SnapshotSchedule:
        loader = self.callback_handler.train_dataloader
        batches = len(loader) if has_length(loader) else None
        return SnapshotSchedule.from_arguments(
            IntervalStrategy(self._tb_arguments.histogram_strategy),
            self._tb_arguments.histogram_steps,
            self.state.max_steps,
            steps_per_epoch(batches, self.args.gradient_accumulation_steps, self.state.max_steps),
        )

    def _show_arguments(self) -> None:
        """Writes arguments and model configuration under stock's tags, without their secrets."""
        self.writer.add_text("args", redacted_json(self.args.to_dict()))
        config = getattr(self.model, "config", None)
        if config is not None and hasattr(config, "to_dict"):
            self.writer.add_text("model_config", redacted_json(config.to_dict()))

    def _end_training(self) -> None:
        """Runs however the training ended, and lets its exception pass unchanged."""
        with self._tb_isolation.guard("close the run"):
            self._stop_telemetry()
            self._tb_run.rest()

    def _stop_telemetry(self) -> None:
        self._tb_model = None
        self._tb_while_observed.close()
        if self._tb_telemetry is not None:
            telemetry, self._tb_telemetry = self._tb_telemetry, None
            telemetry.close()

    # ---- A step is taken, its gradients and parameters are read ----

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Takes the step as `Trainer.training_step` does, and reads the gradients when whole."""
        return self._observed_step(super().training_step, *args, **kwargs)

    def _observed_step(
        self, take: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Calls `take`, a `training_step`, and reads the gradients that it leaves.

        A step may call the one that it overrides. Gradients are whole after the outermost.
        """
        if self._tb_in_step:
            return take(*args, **kwargs)
        self._begin_telemetry(kwargs["model"] if "model" in kwargs else args[0])
        self._tb_unseen_from = None
        self._tb_in_step = True
        try:
            loss = take(*args, **kwargs)
        finally:
            self._tb_in_step = False
        if self.accelerator.sync_gradients and not self.is_deepspeed_enabled:
            self._observe_gradients()
        return loss

    @contextmanager
    def _outermost_training_step_observed(self) -> Iterator[None]:
        """Observes `training_step` from outside: one that a user wrote need not call ours."""
        own = self.__dict__
        before = own.get("training_step")
        own["training_step"] = partial(self._observed_step, self.training_step)
        try:
            yield
        finally:
            if before is None:
                del own["training_step"]
            else:
                own["training_step"] = before

    def _observe_gradients(self) -> None:
        with self._observing("read the gradients") as telemetry:
            if telemetry is not None:
                telemetry.observe_gradients(self.state.global_step + 1, self._loss_scale())

    def _loss_scale(self) -> torch.Tensor | None:
        """What float16 gradients are multiplied by, on the device: no synchronisation."""
        if self.is_deepspeed_enabled:
            return engine_loss_scale(self._tb_model)
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is None or not scaler.is_enabled():
            return None
        # `get_scale()` would wait for the device. Seen in torch 2.4 to 2.13.
        scale = getattr(scaler, "_scale", None)
        return scale if isinstance(scale, torch.Tensor) else torch.tensor(scaler.get_scale())

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the parameters after the step, then logs, evaluates and saves as `Trainer` does."""
        self._look_for_unseen_steps()
        with self._observing("read the parameters") as telemetry:
            if telemetry is not None:
                telemetry.observe_parameters(self.state.global_step)
        if self.control.should_log:
            with self._observing("write the gradient norms") as telemetry:
                if telemetry is not None:
                    telemetry.log_gradient_norms(self.state.global_step)
                    self.writer.add_scalar(
                        "tbtrainer/overhead_fraction",
                        self._tb_overhead.fraction(),
                        self.state.global_step,
                    )
                    self._tb_run.write_counters(self.state.global_step)
        result = super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.control.should_training_stop:
            with self._observing("read the parameters") as telemetry:
                if telemetry is not None:
                    telemetry.observe_parameters(self.state.global_step, training_ends=True)
        return result

    def _look_for_unseen_steps(self) -> None:
        """Warns once if the loop takes its steps without `training_step`."""
        step = self.state.global_step
        if self._tb_model is None:
            self._begin_telemetry(self.model_wrapped)
            self._tb_unseen_from = step
        elif self._tb_unseen_from is not None and step > self._tb_unseen_from:
            self._tb_unseen_from = None
            if self.is_world_process_zero():
                logger.warning(
                    "Gradients are not shown: the training loop of %s does not call the "
                    "training_step of tbtrainer. Call super().training_step(...) and they are. "
                    "Parameters and scalars are shown.",
                    type(self).__name__,
                )

    @contextmanager
    def _observing(self, what: str) -> Iterator[Telemetry | None]:
        """Measures what a part of the telemetry costs, and keeps its errors from the training."""
        with self._tb_overhead.measured(), self._tb_isolation.guard(what):
            yield self._tb_telemetry

    # ---- The step is logged, evaluation is logged ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs as `Trainer.log` does, and writes the entries that this adds to the log history.

        Trainers to the right in the class order may add entries, change them or leave them out.
        """
        self._remove_stock_callback()
        known = len(self.state.log_history)
        # `log` may be called inside itself. The outermost call writes all entries, once each.
        self._tb_open_logs += 1
        try:
            super().log(logs, *args, **kwargs)
        finally:
            self._tb_open_logs -= 1
            if self._tb_open_logs == 0:
                self._write_entries(self.state.log_history[known:], logs)

    def _write_entries(self, entries: list[dict[str, Any]], logs: dict[str, float]) -> None:
        """Writes entries of the log history at their steps.

        Args:
            entries: Copies of what was logged, to which stock added "step".
            logs: What `log` was called with. Its own "step", if any, is a value like others.
        """
        with self._observing("write the logged values"):
            for entry in entries:
                values = dict(entry)
                step = values.pop("step", self.state.global_step)
                if "step" in logs:
                    values["step"] = logs["step"]
                self._tb_run.write(records(values, self._tb_refused_keys), step)
            self._tb_run.flush()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate` does, before, during and after training in the one run.

        When it returns, what it logged can be read in TensorBoard. Outside a training no event
        file stays open.
        """
        self._remove_stock_callback()
        # `Trainer.evaluate` calls itself once per dataset of a dictionary.
        self._tb_open_evaluations += 1
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics
        finally:
            self._tb_open_evaluations -= 1
            with self._observing("close the run after an evaluation"):
                if not self._tb_trains and self._tb_open_evaluations == 0:
                    self._tb_run.rest()

    # ---- A checkpoint is saved and marked ----

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the checkpoint as `Trainer` does, after all that was logged has been written.

        The checkpoint gets one file more, `tensorboard_run.json`: the run directory and the step.
        """
        with self._observing("flush the run before a checkpoint") as telemetry:
            if telemetry is not None:
                telemetry.drain()
            self._tb_run.settle()
        step = self.state.global_step
        checkpoint = os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")
        began = time.perf_counter()
        self._tb_unmarked = checkpoint
        try:
            super()._save_checkpoint(model, trial, *args, **kwargs)
            # A trainer to the right may save without `save_model`, or somewhere else.
            if os.path.isdir(checkpoint):
                self._mark_checkpoint(checkpoint)
                self._show_checkpoint(checkpoint, time.perf_counter() - began)
        finally:
            self._tb_unmarked = None

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `Trainer` does. Of a checkpoint this is the first part.

        The checkpoint is marked here, before stock pushes it to a hub and removes earlier ones: a
        process that is killed in between leaves no checkpoint without its run.
        """
        super().save_model(output_dir, *args, **kwargs)
        if output_dir is not None and output_dir == self._tb_unmarked:
            self._mark_checkpoint(output_dir)

    def _mark_checkpoint(self, checkpoint: str) -> None:
        if self._tb_unmarked is None or not self.is_world_process_zero():
            return
        self._tb_unmarked = None
        with self._observing("mark the checkpoint"):
            # Under FSDP with sharded states `save_model` has made no directory yet.
            os.makedirs(checkpoint, exist_ok=True)
            self._tb_run.mark_checkpoint(checkpoint, self.state.global_step)

    def _show_checkpoint(self, checkpoint: str, seconds: float) -> None:
        if not self.is_world_process_zero():
            return
        step = self.state.global_step
        with self._observing("show the checkpoint"):
            is_best = self.state.best_model_checkpoint == checkpoint
            show_checkpoint(self.writer, checkpoint, step, seconds, self._metric_at(step), is_best)
            self._tb_run.flush()

    def _metric_at(self, step: int) -> tuple[str, float] | None:
        """Name and value of `metric_for_best_model` in the evaluation of this step, if any."""
        name = self.args.metric_for_best_model
        if name is None:
            return None
        key = name if name.startswith("eval_") else f"eval_{name}"
        for entry in reversed(self.state.log_history):
            if entry.get("step") == step and key in entry:
                return key, float(entry[key])
        return None


def _is_stocks_own(callback: Any) -> bool:
    """Whether a callback is the one that stock adds for TensorBoard.

    A subclass of it shows things of its own, and one with a writer was given that by the user.
    """
    return type(callback) is TensorBoardCallback and callback.tb_writer is None


class TBTrainer(TBTrainerMixin, Trainer):
    """`transformers.Trainer` whose runs show in TensorBoard what happens inside the model.

    Takes `Trainer`'s arguments. With a `TBTrainingArguments` as `args` one chooses what is shown;
    with a plain `TrainingArguments` the defaults of `TensorBoardArguments` apply.

    ```python
    from tbtrainer import TBTrainer as Trainer
    ```

    Raises:
        ValueError: `logging_dir` cannot be written to, or is a file. Raised on world rank zero
            when the trainer is built, before any training.
    """


class TBSeq2SeqTrainer(TBTrainerMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with the additions of `TBTrainer`."""
