"""`TBTrainer`: Hugging Face's `Trainer` with a window into the training.

The overrides stand in the order of a run: the run directory is chosen, training begins, a step is
taken, the step is logged, evaluation is logged, a checkpoint is saved, the run is closed. Each
calls `Trainer`'s own method, changes nothing of it, and lets the observers see the moment. What
they show is in `tbtrainer/observers/`; what happens in between is in `tbtrainer/telemetry.py`.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import Trainer

from tbtrainer.observers.observer import Observer
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

    # ---- The run directory is chosen ----

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Built here, unless `super().__init__` has logged, evaluated or trained.
        _ = self._tb

    @cached_property
    def _tb(self) -> Telemetry:
        """All that is ours, under a name that no trainer this is mixed into has."""
        return Telemetry(self)

    def add_observer(self, observer: Observer) -> None:
        """Adds an observer of your own; see `Observer`."""
        self._tb.observers.add(observer)

    # ---- Training begins, and ends ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, in one run directory."""
        with self._tb.in_use():
            return super().train(*args, **kwargs)

    # ---- A step is taken ----

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the step as `Trainer.training_step` does, and shows the complete gradients."""
        self._tb.observe(kwargs["model"] if "model" in kwargs else args[0])
        loss: Tensor = super().training_step(*args, **kwargs)
        self._tb.micro_batch_taken(loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Shows the step that was taken, then logs, evaluates and saves as `Trainer` does."""
        self._tb.step_taken()
        result = super()._maybe_log_save_evaluate(*args, **kwargs)
        self._tb.end_run_if_last_step()
        return result

    # ---- The step is logged, evaluation is logged ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs as `Trainer.log` does, and writes what was appended to the log history."""
        with self._tb.entries_logged():
            super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate` does: before, during and after training in one run."""
        with self._tb.in_use():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            self._tb.evaluation_ended(metrics)
            return metrics

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts a batch as `Trainer.prediction_step` does, and shows it."""
        predicted = super().prediction_step(model, inputs, *args, **kwargs)
        self._tb.evaluation_batch(inputs, predicted)
        return predicted

    # ---- A checkpoint is saved ----

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the checkpoint as `Trainer` does, after all that was logged has been written."""
        with self._tb.checkpoint(trial):
            super()._save_checkpoint(model, trial, *args, **kwargs)
