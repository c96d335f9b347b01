"""Calls the observers at the moments of each evaluation, and sees what the model returns."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from torch import Tensor

from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.panels.nested import first_tensor
from tbtrainer.sharding.world import own_rank
from tbtrainer.wrapping import wrapped_on_instance


class ObservedEvaluations:
    """Reports the evaluations of a trainer to its observers.

    Args:
        trainer: A `Trainer`.
        observers: They are called at each moment.
    """

    def __init__(self, trainer: Any, observers: ObserverSet) -> None:
        self._trainer = trainer
        self._observers = observers
        # Prefixes of the evaluations that are running now, one inside the other.
        self._open: list[str] = []
        # Inputs and outputs of the forward pass of the batch that is being predicted.
        self._forward: tuple[Mapping[str, Any], Any] | None = None

    @contextmanager
    def observed(self, prefix: str, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """Shows the beginning and the end of an evaluation, which may be inside a training.

        Args:
            prefix: The `metric_key_prefix` of `evaluate`.
            step: Optimizer steps taken so far.

        Yields:
            A function to be called with the metrics when the evaluation has ended.
        """
        # `evaluate` with a dictionary of datasets calls itself, with the prefix of each.
        outer = self._open[-1] if self._open else None
        dataset = None if outer is None else prefix.removeprefix(f"{outer}_")
        began = time.perf_counter()

        def ended(metrics: dict[str, float]) -> None:
            seconds = time.perf_counter() - began
            evaluation = Evaluation(
                MappingProxyType(dict(metrics)), dataset, seconds, outer is not None
            )
            self._observers.evaluation_ended(step, evaluation)

        self._open.append(prefix)
        try:
            self._observers.evaluation_begins(step, dataset)
            with self._outputs_seen() if outer is None else nullcontext():
                yield ended
        finally:
            self._open.pop()

    def _outputs_seen(self) -> Any:
        return wrapped_on_instance(self._trainer, "compute_loss", self._observed_forward)

    def _observed_forward(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a `compute_loss`, and keeps what the model was given and what it returned.

        `prediction_step` asks it for the outputs, and leaves them out of what it returns if only
        the loss was asked for (transformers 4.57 to 5.24).
        """
        given = kwargs["inputs"] if "inputs" in kwargs else args[1] if len(args) > 1 else {}
        # A copy, because `compute_loss` may take the labels out.
        inputs = dict(given) if isinstance(given, Mapping) else {}
        computed = compute(*args, **kwargs)
        if isinstance(computed, tuple) and len(computed) == 2:
            self._forward = inputs, computed[1]
        return computed

    def batch_predicted(self, step: int, inputs: Any, predicted: Any) -> None:
        """Shows a predicted batch: inputs, outputs, loss, logits and labels.

        Args:
            step: Optimizer steps taken so far.
            inputs: What `prediction_step` was given.
            predicted: What it returned: loss, logits and labels.
        """
        forward, self._forward = self._forward, None
        with self._observers.guarded("observe an evaluation batch"):
            loss, logits, labels = predicted
            inputs, outputs = forward or (inputs, None)
            examples = _length(inputs)
            batch = EvaluationBatch(
                inputs,
                loss,
                logits,
                self._labels(inputs) if labels is None else labels,
                outputs,
                examples,
                self._own_examples(examples),
            )
            self._observers.evaluation_batch(step, batch)

    def _labels(self, inputs: Any) -> Any:
        """Returns the labels among the inputs, as `prediction_step` does with all it returns."""
        if not isinstance(inputs, Mapping):
            return None
        found = tuple(inputs.get(name) for name in self._trainer.label_names)
        if not found or any(label is None for label in found):
            return None
        return found[0] if len(found) == 1 else found

    def _own_examples(self, examples: int) -> int:
        """Returns how many examples of this rank's batch count.

        accelerate fills up the last batch of all ranks together, and `gather_for_metrics` cuts the
        gathered one off at `remainder` (accelerate 1.3 to 1.15).
        """
        state = self._trainer.accelerator.gradient_state
        # Outside of a prepared data loader there is none. -1: the dataset has no length.
        if not state.end_of_dataloader or state.remainder <= 0:
            return examples
        own: int = min(max(state.remainder - own_rank() * examples, 0), examples)
        return own


def _length(inputs: Any) -> int:
    """Returns the number of examples of a batch."""
    tensor: Tensor | None = first_tensor(inputs)
    return 0 if tensor is None else tensor.shape[0]
