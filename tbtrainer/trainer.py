"""`TBTrainer`: Hugging Face's `Trainer`, whose runs show in TensorBoard what happens in the model.

The overrides are in the order of a run: the run directory is chosen, training begins, a step is
taken, the step is logged, evaluation is logged, a checkpoint is saved. Each calls `Trainer`'s own
method, changes none of its results, and calls the observers before or after it. The observers are
in `tbtrainer/observers/`. `tbtrainer/telemetry.py` and `tbtrainer/steps.py` call them.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import Seq2SeqTrainer, Trainer

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.given_arguments import convertible, given_arguments
from tbtrainer.observers.observer import Observer
from tbtrainer.run import RunWriter, SilentWriter
from tbtrainer.signatures import show_extended_signatures
from tbtrainer.telemetry import Telemetry
from tbtrainer.tensorboard_server import show_run

# Type checkers see the attributes of `Trainer`. At run time the mixin has no base class, so that it
# can be mixed into any subclass of `Trainer`.
_AnyTrainer: Any = Trainer if TYPE_CHECKING else object


class TBTrainerMixin(_AnyTrainer):
    """Adds what `TBTrainer` does to any subclass of `Trainer`.

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
        """The run and the observers, under a name that other trainers do not use.

        It is built at its first use, because another trainer in the class order may log or train in
        its `__init__`.
        """
        return Telemetry(self, self._tb_given)

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The run's `SummaryWriter`. On ranks other than world rank zero its methods do nothing.

        Pass `state.global_step` as the step. When the training is resumed from a checkpoint,
        records with a later step than the checkpoint's are removed.

        A subclass may set another writer for its own calls. What tbtrainer shows is still written
        to the run's.
        """
        if "_tb_writer_of_user" in vars(self):
            return self._tb_writer_of_user
        return self._tb.run.writer

    @writer.setter
    def writer(self, writer: Any) -> None:
        self._tb_writer_of_user: RunWriter | SilentWriter = writer

    def show(self, *, port: int = 0, height: int = 800) -> str | None:
        """Opens TensorBoard on the run, and prints the URL, the port and the command.

        In a notebook (Jupyter, Colab, VS Code) the page is below the cell. Elsewhere the server
        runs in a child process, and this method does not wait. The server listens on localhost
        only. A second call uses the server that is running. It ends with the Python process.

        Before a training this chooses the run directory. A training that is resumed afterwards
        continues the run of its checkpoint, so call this method again then.

        Args:
            port: The port to listen on; 0 for a free one.
            height: Of the page in a notebook, in pixels.

        Returns:
            The URL. `None` on ranks other than world rank zero, which do nothing, and if
            TensorBoard does not start. One warning then says why.
        """
        with self._tb.observers.guarded("start TensorBoard"):
            return show_run(self._tb.run, port, height)
        return None

    def add_observer(self, observer: Observer) -> None:
        """Adds an observer of your own, which is called after the built-in ones.

        Args:
            observer: An instance of a subclass of `Observer`. Add it before `train`, and on every
                rank if it communicates with other ranks.

        Raises:
            TypeError: `observer` is something else.
        """
        self._tb.observers.add(observer)

    # ---- Training begins, and ends ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, in one run directory.

        A training that is resumed from a checkpoint continues the checkpoint's run. Any other one
        gets a run directory without events of another training.
        """
        with self._tb.training():
            return super().train(*args, **kwargs)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Begins the run, then trains as `Trainer` does.

        Before it calls this, `Trainer.train` checks the checkpoint, builds the model and sets the
        hyper-parameters of the trial. With `auto_find_batch_size` it calls this once per attempt.
        """
        # By position in the signature of transformers 4.57 and 5.
        names = ("batch_size", "args", "resume_from_checkpoint", "trial")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        with self._tb.attempt(given.get("resume_from_checkpoint"), given.get("trial")):
            return super()._inner_training_loop(*args, **kwargs)

    # ---- A step is taken ----

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs `Trainer.training_step`, and shows the gradients once they are complete."""
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

        Another trainer in the class order may add entries, change them or leave them out.
        """
        with self._tb.entries_logged(logs):
            super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate` does, and writes to the run of the training.

        That holds before, during and after training. When it returns, what it logged is in the
        event file. Outside of a training the event file is closed again.
        """
        # By position in the signature of transformers 4.57 and 5.
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "eval")
        with self._tb.evaluation(prefix) as ended:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            ended(metrics)
            return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts as `Trainer.predict` does. Outside a training no event file stays open."""
        with self._tb.prediction():
            return super().predict(*args, **kwargs)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts a batch as `Trainer.prediction_step` does, and shows it."""
        predicted = super().prediction_step(model, inputs, *args, **kwargs)
        self._tb.evaluation_batch(inputs, predicted)
        return predicted

    # ---- A checkpoint is saved and marked ----

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Flushes the event file, then saves the checkpoint as `Trainer` does.

        The checkpoint has one more file, `tensorboard_run.json`, with run directory and step.
        Arrays in the log history, which `Trainer` cannot save, are saved as lists.
        """
        with self._tb.checkpoint(trial):
            super()._save_checkpoint(model, trial, *args, **kwargs)

    def save_state(self, *args: Any, **kwargs: Any) -> None:
        """Saves the state as `Trainer` does, and arrays in the log history as lists."""
        with self._tb.state_saved():
            super().save_state(*args, **kwargs)

    def _tune_save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Saves the checkpoint of a trial of Ray Tune as `Trainer` does; arrays as `save_state`."""
        with self._tb.state_saved():
            super()._tune_save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `Trainer` does, and marks the checkpoint that it may be a part of.

        `Trainer` saves the model first, then pushes the checkpoint to a hub and removes earlier
        ones. Marked here, a checkpoint names its run even if the process is killed in between.
        """
        super().save_model(output_dir, *args, **kwargs)
        self._tb.mark_checkpoint(output_dir)


class TBTrainer(TBTrainerMixin, Trainer):
    """`transformers.Trainer` whose runs show in TensorBoard what happens inside the model.

    Takes the arguments of `Trainer`. A `TBTrainingArguments` as `args` chooses what is shown. With
    a plain `TrainingArguments` the defaults of `TensorBoardArguments` apply.

    ```python
    from tbtrainer import TBTrainer as Trainer
    ```

    Raises:
        ValueError: `logging_dir` cannot be written to, or is a file. Raised on world rank zero,
            when the trainer is built.
    """


class TBSeq2SeqTrainer(TBTrainerMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` with the additions of `TBTrainer`."""
