"""`TBTrainer`: Hugging Face's `Trainer` with a window into the training.

The overrides stand in the order of a run: the run directory is chosen, training begins, a step is
taken, its gradients and parameters are read, the step is logged, evaluation is logged, a checkpoint
is saved and marked, the run is closed. Each calls `Trainer`'s own method and changes nothing of it.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import Seq2SeqTrainer, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    get_last_checkpoint,
    has_length,
)

from tbtrainer.arguments import telemetry_arguments
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

    # ---- The run directory is chosen ----

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Names of our own, for no trainer this is mixed into to have them already.
        self._tb_arguments = telemetry_arguments(self.args)
        self._tb_isolation = Isolation(self._tb_arguments.telemetry_errors)
        self._tb_overhead = Overhead()
        self._tb_telemetry: Telemetry | None = None
        self._tb_model: torch.nn.Module | None = None
        self._tb_while_observed = ExitStack()
        self._tb_refused_keys: set[str] = set()
        self._tb_open_evaluations = 0
        self._tb_trains = False
        self._tb_run = RunSession(
            self._tb_arguments.logging_dir,
            self.args.output_dir,
            writes=self.is_world_process_zero(),
            isolation=self._tb_isolation,
            private=self._tb_arguments.event_file_private,
            fsync=self._tb_arguments.event_file_fsync,
        )
        self._remove_stock_callback()
        if self.is_world_process_zero():
            self._tb_run.check()
            warn_of_patterns_without_match(
                self._tb_arguments, (n for n, _ in self.model.named_parameters())
            )

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The run's `SummaryWriter`; elsewhere than on world rank zero a silent double.

        Write at `state.global_step`: when the training is resumed from a checkpoint, records with a
        later step are taken out.
        """
        return self._tb_run.writer

    def _remove_stock_callback(self) -> None:
        """Takes the stock TensorBoard callback out, so that nothing is written twice."""
        for callback in list(self.callback_handler.callbacks):
            # Exactly this class: a user's subclass of it shows things of its own, and stays.
            if type(callback) is TensorBoardCallback:
                self.remove_callback(callback)

    # ---- Training begins, and ends ----

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, in one run directory.

        A training resumed from a checkpoint goes on in the checkpoint's run. A fresh one never
        mixes with the events of another.
        """
        self._remove_stock_callback()
        trial = kwargs.get("trial", args[0] if args else None)
        with self._tb_isolation.guard("begin the run"):
            self._tb_run.begin_training(
                checkpoint=self._checkpoint_to_resume(resume_from_checkpoint),
                resume=self._tb_arguments.run_resume,
                trial_name=os.path.basename(self._get_output_dir(trial))
                if trial is not None
                else None,
            )
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
        """Called once per attempt by `auto_find_batch_size`, which wraps the model anew."""
        with self._tb_isolation.guard("let go of an earlier attempt"):
            self._stop_telemetry()
        return super()._inner_training_loop(*args, **kwargs)

    def _checkpoint_to_resume(self, resume_from_checkpoint: Any) -> str | None:
        if resume_from_checkpoint is True:
            return str(get_last_checkpoint(self.args.output_dir) or "") or None
        return resume_from_checkpoint or None

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
            self._tb_overhead.restart()
        with self._observing("write the arguments"):
            self._show_arguments()

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
        self._begin_telemetry(kwargs["model"] if "model" in kwargs else args[0])
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and not self.is_deepspeed_enabled:
            self._observe_gradients()
        return loss

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
        if self._tb_model is None:  # A `training_step` that does not call the one here.
            self._begin_telemetry(self.model_wrapped)
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

    @contextmanager
    def _observing(self, what: str) -> Iterator[Telemetry | None]:
        """Measures what a part of the telemetry costs, and keeps its errors from the training."""
        with self._tb_overhead.measured(), self._tb_isolation.guard(what):
            yield self._tb_telemetry

    # ---- The step is logged, evaluation is logged ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs as `Trainer.log` does, and writes what ended up in the log history.

        Trainers to the right in the class order may add entries of their own; they are written too.
        """
        known = len(self.state.log_history)
        super().log(logs, *args, **kwargs)
        with self._observing("write the logged values"):
            history = self.state.log_history
            entry = dict(history[-1] if len(history) > known else logs)
            if "step" not in logs:
                entry.pop("step", None)
            self._tb_run.write(records(entry, self._tb_refused_keys), self.state.global_step)
            self._tb_run.flush()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate` does, before, during and after training in the one run.

        When it returns, what it logged can be read in TensorBoard. Outside a training no event
        file stays open.
        """
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
        began = time.perf_counter()
        super()._save_checkpoint(model, trial, *args, **kwargs)
        if self.is_world_process_zero():
            with self._observing("mark the checkpoint"):
                self._mark_checkpoint(trial, time.perf_counter() - began)

    def _mark_checkpoint(self, trial: Any, seconds: float) -> None:
        step = self.state.global_step
        checkpoint = os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")
        self._tb_run.mark_checkpoint(checkpoint, step)
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
