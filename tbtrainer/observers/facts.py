"""What an observer is given at the moments of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """The gradients of one optimizer step: accumulated, summed over ranks and not yet clipped.

    Attributes:
        parts: The part of each gradient that this rank counts, in the order of
            `Training.parameters.rows`. `None` where other ranks count all of it, where the
            parameter has no gradient, and where it could not be read; for the last, the reason is
            in `Training.parameters.unread_gradients`. These are the training's own tensors: do not
            change them, and do not keep them after the call.
        loss_scale: What the gradients are still multiplied by under float16, a scalar tensor;
            `None` without a loss scale.
    """

    parts: Sequence[Tensor | None]
    loss_scale: Tensor | None


@dataclass(frozen=True)
class Refusal:
    """Why `nonfinite_action` does not let an optimizer step through. Equal on every rank.

    Attributes:
        action: `"stop"` or `"raise"`.
        loss: This rank's loss of the step, a scalar; `None` if it is not known. Differs between
            ranks.
        first_module: The first module, in the order of execution, whose output was not finite
            although its inputs were, in a second forward pass of the same data; `None` if there was
            none.
        checked_forward: Whether a second forward pass was made on every rank.
    """

    action: str
    loss: Tensor | None
    first_module: str | None
    checked_forward: bool


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was saved.

    Attributes:
        path: Its directory.
        seconds: The time that saving it took on this rank.
        metric: Name and value of `metric_for_best_model` at this step; `None` if there is none.
        is_best: Whether it is the best checkpoint so far.
    """

    path: str
    seconds: float
    metric: tuple[str, float] | None
    is_best: bool


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that has ended.

    Attributes:
        metrics: What `evaluate` returns; empty if it raised an error on this rank, and other ranks
            may have metrics.
        dataset: What `metric_key_prefix` says beside `eval`: `Trainer` adds the key of a dataset in
            a dictionary of datasets. `None` if it says nothing else.
        seconds: The time that it took on this rank.
        is_part: Whether it is the evaluation of one dataset of several. An evaluation of all of
            them, with its own `seconds`, follows.
    """

    metrics: Mapping[str, float]
    dataset: str | None
    seconds: float
    is_part: bool


@dataclass(frozen=True)
class EvaluationBatch:
    """One predicted batch of this rank in an evaluation, on its device, before ranks gather.

    Without `compute_metrics`, `Trainer.evaluate` asks for the loss alone: `logits` is then `None`.

    Attributes:
        inputs: What the model was given, with the labels.
        loss: Mean loss of the batch, a scalar; `None` without labels.
        logits: What `prediction_step` returned beside the loss: a tensor, or a nested tuple of
            tensors; `None` if only the loss was asked for.
        labels: A tensor, or a tuple of them for a model with several; `None` without labels.
        outputs: What the model returned, also if only the loss was asked for; `None` if
            `prediction_step` does not call `compute_loss`, as without labels.
        examples: Length of the first dimension of its tensors.
        own_examples: How many of them, from the first on, count: added up over all ranks they are
            the examples of the evaluation. Others were added to make the last batch of all ranks
            equally long, and another rank has them too. None of them count where ranks share the
            work on a batch and this is not the first of them.
    """

    inputs: Mapping[str, Any]
    loss: Tensor | None
    logits: Any
    labels: Any
    outputs: Any = None
    examples: int = 0
    own_examples: int = 0
