"""`Panel`: shows something of every evaluation, such as a confusion matrix."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainingArguments

from tbtrainer.panels.nested import is_tensor, without_values
from tbtrainer.records import Records

T = TypeVar("T")


@dataclass(frozen=True)
class PanelBatch:
    """One batch of an evaluation on one rank, on its device, before the ranks gather.

    Examples that were added to make all ranks' batches equally long are left out, and so are those
    that another rank has too. The tensors are the evaluation's own: do not change them, and do not
    keep them.

    Attributes:
        size: Number of examples, at least one; the first dimension of all tensors.
        inputs: What the model was given, with the labels. Empty if it was not a mapping.
        outputs: What the model returned, an output with names as a dictionary; `None` without
            labels, and if the trainer predicts without `compute_loss`.
        predictions: What `prediction_step` returned in the place of logits, such as the generated
            tokens of `Seq2SeqTrainer`; `None` if only the loss was asked for.
        labels: A tensor, or a tuple of them for a model with several; `None` without labels.
        loss: Mean loss of the batch with the examples that are left out here, a scalar; `None`
            without labels.
    """

    size: int
    inputs: Mapping[str, Any]
    outputs: Any
    predictions: Any
    labels: Any
    loss: Tensor | None

    def without_values(self) -> "PanelBatch":
        """Returns a batch that takes no memory: its tensors have shapes and dtypes only."""
        given = {name: without_values(getattr(self, name)) for name in _WITH_TENSORS}
        return PanelBatch(self.size, **given)

    def computed(self, function: Callable[..., T], *arguments: Hashable) -> T:
        """Returns `function(self, *arguments)`, computed once for all panels that ask for it."""
        key = (function, *arguments)
        if key not in self._computed:
            self._computed[key] = function(self, *arguments)
        found: T = self._computed[key]
        return found

    @cached_property
    def _computed(self) -> dict[Hashable, Any]:
        return {}

    @cached_property
    def logits(self) -> Tensor | None:
        """The `logits` of the model; `None` if it left them out, or has `log_probs` instead.

        Of an output without that name it is the first tensor after the loss, if there is one that
        is not inside of another tuple.
        """
        outputs = self.predictions if self.outputs is None else self.outputs
        if isinstance(outputs, Mapping):
            if "logits" in outputs:
                named = outputs["logits"]
                return named if is_tensor(named) else None
            if "log_probs" in outputs:
                return None
            outputs = [value for name, value in outputs.items() if name != "loss"]
        if not isinstance(outputs, tuple | list):
            return outputs if is_tensor(outputs) else None
        if isinstance(self.outputs, tuple | list) and self.loss is not None and outputs:
            # A loss with a dimension: `nn.DataParallel` returns one for each device.
            is_loss = is_tensor(outputs[0]) and outputs[0].dim() == 1
            outputs = outputs[1:] if is_loss else outputs
        return next((value for value in outputs if is_tensor(value)), None)


_WITH_TENSORS = ("inputs", "outputs", "predictions", "labels", "loss")


@dataclass(frozen=True)
class PanelEvaluation:
    """The evaluation that a panel is asked to show.

    Attributes:
        step: Optimizer steps taken so far.
        dataset: As in `tbtrainer.observers.facts.Evaluation`.
        model: The model as it was given to the trainer. Not to be used in `draw`, which runs while
            the training continues.
        config: The model's configuration; `None` if it has none.
        processing_class: The trainer's tokenizer or processor; `None` if it has none.
        training_arguments: Of the trainer.
        examples: The most examples that a panel may keep, `evaluation_examples`.
        generation_prompts: Of the arguments.
        first_batch: The first batch of this rank with examples. After `applies` its tensors have
            shapes and dtypes only, on the device "meta", so that they take no memory. `None` on a
            rank without examples.
        metrics: What `evaluate` returned; empty until it has.
    """

    step: int
    dataset: str | None
    model: nn.Module
    config: Any
    processing_class: Any
    training_arguments: TrainingArguments
    examples: int
    generation_prompts: Sequence[str] | None = None
    first_batch: PanelBatch | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def tag(self, name: str) -> str:
        """Returns the tag of something that a panel shows: `eval/<name>`.

        With a dataset that has a name it is `eval/<dataset>/<name>`.
        """
        return f"eval/{name}" if self.dataset is None else f"eval/{self.dataset}/{name}"

    def class_name(self, index: int) -> str:
        """Returns the name of a class by the configuration's `id2label`, or else its number."""
        names = getattr(self.config, "id2label", None) or {}
        return str(names.get(index, names.get(str(index), index)))

    def with_metrics(self, metrics: Mapping[str, Any]) -> "PanelEvaluation":
        """Returns the same evaluation when it has ended."""
        return replace(self, metrics=dict(metrics))


@dataclass(frozen=True)
class Kept:
    """What a panel keeps of one batch. `KeptOfAllRanks` is what it gets back at the end.

    Attributes:
        examples: Tensors whose first dimension is that of the batch: what to keep of each example.
            Where the second dimension differs between batches, zeros are added at its end.
        priority: Which examples to keep, shape (examples,), of a floating dtype: those with the
            highest values, of equal ones the earlier, and none whose value is NaN or minus
            infinity. `None`: a uniform sample, the same one at each evaluation of the same data.
        totals: Tensors of the same shapes at each batch. They are added up over all batches and
            ranks, floating dtypes in float64 and others in int64.
    """

    examples: Mapping[str, Any] = field(default_factory=dict)
    priority: Tensor | None = None
    totals: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptOfAllRanks:
    """What was kept of a whole evaluation, of all ranks, in main memory.

    Attributes:
        examples: What was kept of the examples: arrays of shape (examples, …). Sorted by priority,
            the highest first; a sample is in the order of the data.
        priority: Shape (examples,), float32; `None` for a sample.
        totals: The sums over all batches.
        seen: Number of examples of the evaluation.
    """

    examples: Mapping[str, NDArray[Any]]
    priority: NDArray[Any] | None
    totals: Mapping[str, NDArray[Any]]
    seen: int


class PanelName(str):
    """The name of a panel of a user's own, in arguments that were pickled: they have no panel."""


class Panel:
    """Shows something of every evaluation. Subclass it, and name an instance in the arguments.

    ```python
    TBTrainingArguments(evaluation_panels=["auto", MyPanel()])
    ```

    A panel is asked whether it applies to an evaluation, then about each batch, and at the end it
    draws. It keeps nothing itself: what `batch` returns is sampled, added up and brought from all
    ranks to world rank zero for it. An error in a method causes one warning, and the evaluation
    continues without the panel.

    Attributes:
        name: By which the panel is chosen and its errors are named. Default: that of the class.
        most_examples: The most examples that it keeps; `None` for `evaluation_examples`, which is
            the limit in any case.
        on_request: Whether it is left out of `evaluation_panels="auto"`.
    """

    name: str = ""
    most_examples: int | None = None
    on_request: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __reduce__(self) -> tuple[type["PanelName"], tuple[str]]:
        # Arguments are saved with each checkpoint. They name a panel whose class may be local.
        return PanelName, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Panel":
        return self

    def __copy__(self) -> "Panel":
        return self

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether the panel can show this evaluation. Is called with its first batch.

        Decide by shapes, dtypes and the configuration, so that all ranks have the same answer. If
        one of them says no, the panel is left out on all.
        """
        return True

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept | None:
        """Returns what to keep of a batch. Is called on every rank, for the rank's own batches.

        It should not wait for the device: use tensor operations whose results stay there.
        """
        return None

    def finish(self, evaluation: PanelEvaluation) -> Kept | None:
        """Returns what to keep beyond the batches. Is called on every rank, after the last one.

        Here a panel may run the model once more. Random states are restored afterwards. Where the
        model is sharded, every rank has to run it as often as the others. Of ranks that share the
        work on one example, what the first one returns is kept.
        """
        return None

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Records:
        """Returns the records that show it. Is called on world rank zero, in a thread of its own.

        The training continues meanwhile. A panel that takes more than a minute is left out from
        then on. After two minutes the panels of an evaluation that are still missing are left out
        of it.
        """
        return ()
