"""The moments of a run, as the methods of `Observer`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tbtrainer.observers.training import Training
from tbtrainer.records import Records


@dataclass(frozen=True)
class Gradients:
    """The gradients of one optimizer step: accumulated, summed over ranks and not yet clipped.

    Attributes:
        parts: The part of each gradient that this rank counts, in the order of
            `Training.parameters.rows`; `None` where this rank counts none or there is none. They
            are the training's own tensors: read them, and do not change or keep them.
        loss_scale: What they are still multiplied by under float16, a scalar tensor; `None`
            without a loss scale.
    """

    parts: Sequence[Tensor | None]
    loss_scale: Tensor | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was saved.

    Attributes:
        path: Its directory.
        seconds: What saving it took on this rank.
        metric: Name and value of `metric_for_best_model` at this step, if they are known.
        is_best: Whether it is the best so far.
    """

    path: str
    seconds: float
    metric: tuple[str, float] | None
    is_best: bool


@dataclass(frozen=True)
class EvaluationBatch:
    """One predicted batch of an evaluation: of this rank, on its device, before any gather.

    Attributes:
        inputs: What the model was given.
        loss: Mean loss of the batch, a scalar; `None` without labels.
        logits: A tensor, or a nested tuple of tensors; `None` when only the loss was asked for.
        labels: As `logits`; `None` without labels.
    """

    inputs: Mapping[str, Any]
    loss: Tensor | None
    logits: Any
    labels: Any


class Observer:
    """Something that is shown of a training. Subclass it, and pass it to `trainer.add_observer`.

    Each method is a moment of the run. It does nothing unless it is overridden, and it returns the
    records to be written at that moment. A training calls only the methods that are overridden.

    Every method is called on every rank at the same steps; records are written on world rank zero
    only. An error in a method costs one warning, never the training. A method that communicates
    with other ranks has to reach the same collectives on every rank, whatever fails on this one.

    Observers read. They must not change the model, its gradients or the random state, and they
    should not wait for the device outside of `logging_step`.

    Example:
        >>> from tbtrainer import Observer
        >>> from tbtrainer.records import Scalar
        >>> class EmbeddingNorm(Observer):
        ...     def run_begins(self, step, training):
        ...         self.weight = training.model.get_input_embeddings().weight
        ...         return []
        ...
        ...     def logging_step(self, step):
        ...         return [Scalar("embedding/norm", self.weight.detach().norm().item())]
    """

    def run_begins(self, step: int, training: Training) -> Records:
        """Is called before the first step, when the model is wrapped and on its device.

        An observer for which it raises on any rank is left out of the training on all ranks.

        Args:
            step: Optimizer steps taken so far: 0, or those of the checkpoint that is resumed.
            training: What is known of the training.
        """
        return ()

    def micro_batch_taken(self, step: int, loss: Tensor) -> Records:
        """Is called after each forward and backward pass.

        Args:
            step: The optimizer step that this micro-batch is a part of, counted from 1.
            loss: As `Trainer.training_step` returns it: detached, a scalar, on the device.
        """
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> Records:
        """Is called when the gradients of optimizer step `step` are complete, before clipping.

        Args:
            step: The step that will be taken with them, counted from 1.
            gradients: `None` if they could not be read on this rank.
        """
        return ()

    def step_taken(self, step: int) -> Records:
        """Is called after optimizer step `step`. The gradients are gone."""
        return ()

    def logging_step(self, step: int) -> Records:
        """Is called when `Trainer` logs, after optimizer step `step`. Waiting is allowed here."""
        return ()

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> Records:
        """Is called with each entry added to the log history, in training and outside of it."""
        return ()

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> Records:
        """Is called after the prediction of each batch of an evaluation or of `predict`."""
        return ()

    def evaluation_ended(self, step: int, metrics: Mapping[str, float]) -> Records:
        """Is called with the metrics of each evaluation, in training and outside of it."""
        return ()

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> Records:
        """Is called after a checkpoint was saved, on every rank; rank zero's files are complete."""
        return ()

    def run_ends(self, step: int) -> Records:
        """Is called after the last step, and not when an exception ended the training."""
        return ()

    def close(self) -> None:
        """Is called when the training is over, however it ended. Collectives are not allowed."""
