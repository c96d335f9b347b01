"""`TBTrainer`: Hugging Face's `Trainer` with a window into the training.

The overrides stand in the order of a run: the run directory is chosen, training begins, a step is
taken, the step is logged, evaluation is logged, a checkpoint is saved, the run is closed. Each
calls `Trainer`'s own method, changes nothing of it, and lets the observers see the moment. What is
shown is in `tbtrainer/observers/`; what lies between a moment and its observers is in
`tbtrainer/telemetry.py` and `tbtrainer/steps.py`.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import Seq2SeqTrainer, Trainer

from tbtrainer.arguments import TensorBoardArguments, convertible, given_arguments
from tbtrainer.observers.observer import Observer
from tbtrainer.run import RunWriter, SilentWriter
from tbtrainer.signatures import show_extended_signatures
from tbtrainer.telemetry import Telemetry

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

    _tb_given: TensorBoardArguments | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tb_given = given_arguments([*args, *kwargs.values()])
        with convertible(self._tb_given):
            super().__init__(*args, **kwargs)
        self._tb.check()

    @cached_property
    def _tb(self) -> Telemetry:
        """All that is ours, under a name that no trainer this is mixed into has.

        It is built at its first use: a trainer to the right may log or train in its `__init__`.
        """
        return Telemetry(self, self._tb_given)

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The run's `SummaryWriter`. On all ranks but world rank zero its methods do nothing.

        Write at `state.global_step`: when the training is resumed from a checkpoint, records with a
        later step are taken out.

        A subclass may set another writer for its own calls. Telemetry is always written to the
        run's.
        """
        if "_tb_writer_of_user" in vars(self):
            return self._tb_writer_of_user
        return self._tb.run.writer

    @writer.setter
    def writer(self, writer: Any) -> None:
        self._tb_writer_of_user: RunWriter | SilentWriter = writer

    def add_observer(self, observer: Observer) -> None:
        """Adds an observer of your own, which is asked after the built-in ones.

        Args:
            observer: An instance of a subclass of `Observer`. Add it on every rank.
        """
        self._tb.observers.add(observer)

    # ---- Training begins, and ends ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, in one run directory.

        A training resumed from a checkpoint continues the checkpoint's run. A fresh one never mixes
        with the events of another.
        """
        with self._tb.training():
            return super().train(*args, **kwargs)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Begins the run, then trains as `Trainer` does.

        `Trainer.train` has by now checked the checkpoint, built the model and chosen the trial's
        hyper-parameters. It calls this once per attempt of `auto_find_batch_size`.
        """
        # By position in the signature of transformers 4.57 and 5.
        names = ("batch_size", "args", "resume_from_checkpoint", "trial")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        with self._tb.attempt(given.get("resume_from_checkpoint"), given.get("trial")):
            return super()._inner_training_loop(*args, **kwargs)

    # ---- A step is taken ----

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the step as `Trainer.training_step` does, and shows the complete gradients."""
        return self._tb.steps.observed_step(super().training_step, *args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Shows the step that was taken, then logs, evaluates and saves as `Trainer` does."""
        self._tb.steps.step_taken()
        result = super()._maybe_log_save_evaluate(*args, **kwargs)
        self._tb.steps.end_run_if_last_step()
        return result

    # ---- The step is logged, evaluation is logged ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs as `Trainer.log` does, and writes the entries that this adds to the log history.

        Trainers to the right in the class order may add entries, change them or leave them out.
        """
        with self._tb.entries_logged(logs):
            super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate` does: before, during and after training in one run.

        When it returns, what it logged can be read in TensorBoard. Outside a training no event file
        stays open.
        """
        with self._tb.evaluation():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            self._tb.evaluation_ended(metrics)
            return metrics

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts a batch as `Trainer.prediction_step` does, and shows it."""
        predicted = super().prediction_step(model, inputs, *args, **kwargs)
        self._tb.evaluation_batch(inputs, predicted)
        return predicted

    # ---- A checkpoint is saved and marked ----

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the checkpoint as `Trainer` does, after all that was logged has been written.

        The checkpoint gets one file more, `tensorboard_run.json`: the run directory and the step.
        """
        with self._tb.checkpoint(trial):
            super()._save_checkpoint(model, trial, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `Trainer` does. Of a checkpoint this is the first part.

        The checkpoint is marked here, before stock pushes it to a hub and removes earlier ones: a
        process that is killed in between leaves no checkpoint without its run.
        """
        super().save_model(output_dir, *args, **kwargs)
        self._tb.mark_checkpoint(output_dir)


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
