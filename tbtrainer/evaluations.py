"""Calls the observers at the moments of each evaluation, and sees what the model returns."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.panels.nested import first_tensor, is_tensor
from tbtrainer.redaction import redacted_name
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import own_rank, world_size
from tbtrainer.wrapping import only_output_of, wrapped_on_instance


@dataclass(frozen=True)
class _Running:
    """An evaluation or a prediction that is running now.

    Attributes:
        number: No other one of this trainer has it.
        is_evaluation: Whether it is an evaluation.
    """

    number: int
    is_evaluation: bool


class ObservedEvaluations:
    """Reports the evaluations of a trainer to its observers.

    Args:
        trainer: A `Trainer`.
        observers: They are called at each moment.
    """

    def __init__(self, trainer: Any, observers: ObserverSet) -> None:
        self._trainer = trainer
        self._observers = observers
        self._numbers = itertools.count()
        # One inside the other.
        self._running: list[_Running] = []
        # Inputs and outputs of the forward pass of the batch that is being predicted.
        self._forward: tuple[Mapping[str, Any], Any] | None = None
        # Whether the evaluation that began last has gathered the predictions of all its batches.
        self._is_gathered = False

    @property
    def running(self) -> list[int]:
        """Numbers of the evaluations and predictions that are running, the innermost one last."""
        return [running.number for running in self._running]

    @contextmanager
    def observed(self, prefix: str, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """Shows the beginning and the end of an evaluation, which may be inside a training.

        With several ranks it is also shown if an error passes after the last batch, as one of
        `compute_metrics` on this rank alone, which a user may catch. The other ranks then have
        metrics, and wait for this one in the collectives of the observers. After an error in the
        middle of an evaluation they wait for it in those of `Trainer`.

        Args:
            prefix: The `metric_key_prefix` of `evaluate`.
            step: Optimizer steps taken so far.

        Yields:
            A function to be called with the metrics when the evaluation has ended.
        """
        # `evaluate` with a dictionary of datasets calls itself, with the prefix of each.
        is_part = bool(self._running) and self._running[-1].is_evaluation
        # It becomes a part of tags and file names.
        dataset = None if prefix == "eval" else redacted_name(prefix.removeprefix("eval_"))
        began = time.perf_counter()
        has_ended = False

        def ended(metrics: dict[str, float]) -> None:
            nonlocal has_ended
            has_ended = True
            seconds = time.perf_counter() - began
            evaluation = Evaluation(MappingProxyType(dict(metrics)), dataset, seconds, is_part)
            self._observers.evaluation_ended(step, evaluation)

        with self._open(is_evaluation=True):
            self._is_gathered = False
            self._observers.evaluation_begins(step, dataset)
            try:
                yield ended
            except Exception:
                if self._is_gathered and not has_ended and world_size() > 1:
                    ended({})
                raise

    @contextmanager
    def prediction(self) -> Iterator[None]:
        """Keeps the batches of a prediction from the evaluation inside which it may be."""
        with self._open(is_evaluation=False):
            yield

    @contextmanager
    def _open(self, is_evaluation: bool) -> Iterator[None]:
        is_first = is_evaluation and not any(outer.is_evaluation for outer in self._running)
        self._running.append(_Running(next(self._numbers), is_evaluation))
        try:
            with self._wrapped() if is_first else nullcontext():
                yield
        finally:
            self._running.pop()
            # After an error, so that it is not kept until the next evaluation.
            self._forward = None

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        wrappers = {
            "compute_loss": self._observed_forward,
            "compute_metrics": self._observed_metrics,
            "evaluation_loop": self._observed_loop,
            "prediction_loop": self._observed_loop,  # Of transformers 4.57.
        }
        with ExitStack() as stack:
            for name, wrapper in wrappers.items():
                stack.enter_context(wrapped_on_instance(self._trainer, name, wrapper))
            yield

    def _observed_loop(self, loop: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = loop(*args, **kwargs)
        self._gathered()
        return found

    def _observed_metrics(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # With `batch_eval_metrics` it is called after each batch, and only the last call is True.
        if kwargs.get("compute_result", True):
            self._gathered()
        return compute(*args, **kwargs)

    def _gathered(self) -> None:
        # Not if `compute_metrics` itself predicts something.
        if self._running and self._running[-1].is_evaluation:
            self._is_gathered = True

    def _observed_forward(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a `compute_loss`, and keeps what the model was given and what it returned.

        `prediction_step` asks it for the outputs, and leaves them out of what it returns if only
        the loss was asked for (transformers 4.57 to 5.24). TRL's asks for the loss alone (1.16).
        """
        given = kwargs["inputs"] if "inputs" in kwargs else args[1] if len(args) > 1 else {}
        # A copy, because `compute_loss` may take the labels out.
        inputs = dict(given) if isinstance(given, Mapping) else {}
        if kwargs.get("return_outputs", args[2] if len(args) > 2 else False):
            computed = compute(*args, **kwargs)
            seen = computed[1] if isinstance(computed, tuple) and len(computed) == 2 else None
        else:
            model = kwargs["model"] if "model" in kwargs else args[0] if args else None
            with only_output_of(model) as output:
                computed = compute(*args, **kwargs)
            seen = output.value
        if seen is not None:
            self._forward = inputs, seen
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
            if labels is None or (isinstance(labels, tuple) and not labels):
                labels = self._labels(inputs)
            counted = labels if is_tensor(labels) else first_tensor(inputs)
            examples = 0 if counted is None else len(counted)
            own = self._own_examples(examples)
            batch = EvaluationBatch(inputs, loss, logits, labels, outputs, examples, own)
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
        gathered one off at `remainder` (accelerate 1.3 to 1.15). Ranks that share the work on a
        batch are next to each other (`prepare_data_loader`).
        """
        accelerator = self._trainer.accelerator
        sharing = ModelParallelSizes.of(accelerator, self._trainer.model).ranks_per_sample
        place, rank_of_place = divmod(own_rank(), sharing)
        if rank_of_place > 0:
            return 0
        state = accelerator.gradient_state
        # Outside of a prepared data loader there is none. -1: the dataset has no length.
        if not state.end_of_dataloader or state.remainder <= 0:
            return examples
        return int(min(max(state.remainder - place * examples, 0), examples))
