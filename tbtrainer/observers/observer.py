"""`Observer`: the moments of a run as methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tbtrainer.observers.facts import (
    Checkpoint,
    Evaluation,
    EvaluationBatch,
    Gradients,
    Refusal,
)
from tbtrainer.observers.training import Training
from tbtrainer.records import Records


class Observer:
    """Shows something of a training. Subclass it, and pass an instance to `trainer.add_observer`.

    Each method is called at one moment of the run, and returns the records to be written at that
    step, or `None`. The methods of this class do nothing; override those that you need.

    Every method is called on every rank at the same steps. Records are written on world rank zero
    only. An error in a method causes one warning, and the training continues.

    An observer must not change the model, the gradients or the random state. It should not wait for
    the device, except in `logging_step`. If it communicates with other ranks, it has to reach the
    same collectives on every rank, also after an error on one of them.

    Example:
        >>> from tbtrainer import Observer
        >>> from tbtrainer.records import Scalar
        >>> class EmbeddingNorm(Observer):
        ...     def run_begins(self, step, training):
        ...         self.weight = training.unwrapped_model.get_input_embeddings().weight
        ...
        ...     def logging_step(self, step):
        ...         return [Scalar("embedding/norm", self.weight.detach().norm().item())]
    """

    def run_begins(self, step: int, training: Training) -> Records | None:
        """Is called before the first step, when the model is wrapped and on its device.

        If it raises an error on any rank, the observer is left out of this training on all ranks.
        Do not communicate with other ranks here: a rank that cannot describe the training does not
        call it.

        Args:
            step: Optimizer steps taken so far: 0, or those of the checkpoint that is resumed.
            training: What is known of the training.
        """
        return None

    def data_requested(self, step: int) -> Records | None:
        """Is called before the training loop fetches the micro-batches of optimizer step `step`.

        Not called for the first step of a training: the model is not known before it.
        """
        return None

    def data_received(self, step: int, micro_batches: Sequence[Any]) -> Records | None:
        """Is called when the micro-batches of optimizer step `step` have been fetched.

        `Trainer` may count the labels of all ranks afterwards, before the first forward pass.

        Args:
            step: The step that will be taken with them, counted from 1.
            micro_batches: What this rank's data loader gave, as many as there are until the step.
        """
        return None

    def forward_begins(self, step: int) -> Records | None:
        """Is called before each forward pass of the training.

        Args:
            step: The optimizer step that this micro-batch is a part of, counted from 1.
        """
        return None

    def forward_done(self, step: int, loss: Tensor) -> Records | None:
        """Is called after each forward pass of the training, before its backward pass.

        Args:
            step: The optimizer step that this micro-batch is a part of, counted from 1.
            loss: What `Trainer.compute_loss` returned, a scalar on the device, with its graph.
        """
        return None

    def micro_batch_taken(self, step: int, loss: Tensor) -> Records | None:
        """Is called after each forward and backward pass.

        Args:
            step: The optimizer step that this micro-batch is a part of, counted from 1.
            loss: As `Trainer.training_step` returns it: detached, a scalar, on the device.
        """
        return None

    def gradients_ready(self, step: int, gradients: Gradients | None) -> Records | None:
        """Is called when the gradients of optimizer step `step` are complete, before clipping.

        Args:
            step: The step that will be taken with them, counted from 1.
            gradients: What this rank counts of them; `None` if it could not read them.
        """
        return None

    def step_taken(self, step: int) -> Records | None:
        """Is called after optimizer step `step`, when the gradients have been discarded.

        `Training.was_step_skipped` says whether it was left out, as after an overflow of float16.
        """
        return None

    def step_refused(self, step: int, refusal: Refusal) -> Records | None:
        """Is called when a loss or a gradient is not finite and `nonfinite_action` ends training.

        The optimizer step is not taken. With `"stop"` `step_taken` follows all the same, because
        `Trainer` counts the step. Here an observer may wait for the device.

        Args:
            step: The step that was about to be taken, counted from 1.
            refusal: What is known of it.
        """
        return None

    def logging_step(self, step: int) -> Records | None:
        """Is called before `Trainer` logs, after optimizer step `step`.

        Here an observer may wait for the device, as `.item()` and `.cpu()` do.
        """
        return None

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> Records | None:
        """Is called with each entry that is added to the log history, also outside of training.

        Args:
            step: Optimizer steps taken so far.
            entry: What was logged, by its name in `Trainer`, such as `eval_loss`.
        """
        return None

    def evaluation_begins(self, step: int, dataset: str | None) -> Records | None:
        """Is called before an evaluation, also outside of training.

        Args:
            step: Optimizer steps taken so far.
            dataset: As in `Evaluation`.
        """
        return None

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> Records | None:
        """Is called after the prediction of each batch, in `evaluate` and in `predict`."""
        return None

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records | None:
        """Is called when `evaluate` has its metrics, also outside of training."""
        return None

    def checkpoint_begins(self, step: int) -> Records | None:
        """Is called before a checkpoint is saved, on every rank.

        Here an observer may wait for the device.
        """
        return None

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> Records | None:
        """Is called after a checkpoint was saved, on the ranks that find its directory.

        Without a shared disk these are not all ranks, so do not communicate here.
        """
        return None

    def state(self) -> dict[str, Any] | None:
        """Returns what the observer needs after a resume; `None` if it needs nothing.

        It is stored in each checkpoint, on world rank zero.

        Returns:
            Values that JSON can hold, a few kilobytes at most.
        """
        return None

    def load_state(self, state: Any) -> None:
        """Is called after `run_begins` of a training that is resumed, on world rank zero.

        Args:
            state: What `state` returned when the checkpoint was saved. Check it: a checkpoint may
                come from any source.
        """
        return None

    def run_ends(self, step: int) -> Records | None:
        """Is called after the last step, and its evaluation and checkpoint.

        What `Trainer` does at the end of the epoch follows, such as the evaluation with
        `eval_strategy="epoch"`, and one more log entry, the totals of the training. Not called if
        an exception ended the training.
        """
        return None

    def close(self) -> None:
        """Is called when the training has ended, also by an exception.

        Release here what is held. Do not communicate with other ranks: they may have ended.
        """
