"""The best evaluation so far, as a card and as a curve, and the patience that is left."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments

from tbtrainer import tags
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.training import Training
from tbtrainer.records import Record, Records, Scalar, Text
from tbtrainer.redaction import redacted_name


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        value: Of the metric, finite.
        step: Optimizer steps that had been taken.
        evaluations_since: How many evaluations followed, with this metric.
    """

    value: float
    step: int
    evaluations_since: int = 0


class BestMetric(Observer):
    """Shows the best value of `metric_for_best_model`, or of `eval_loss`, in a training.

    The curve has a point at each evaluation that is better than those before it.

    As in `Trainer`, `greater_is_better` decides which value is better. NaN and infinities are never
    the best. A training that is resumed from a checkpoint continues with its best value. With a
    dictionary of datasets the card is shown after the last of them.

    Args:
        early_stopping: Returns the trainer's `EarlyStoppingCallback`, or `None`.
    """

    def __init__(self, early_stopping: Callable[[], EarlyStoppingCallback | None]) -> None:
        self._early_stopping = early_stopping
        # The entry of the metrics that is compared; `None` outside of a training.
        self._key: str | None = None
        self._greater = False
        self._begun_at = 0
        self._best: Best | None = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Discards the best evaluation of an earlier training."""
        self._key, self._greater = compared_metric(training.training_arguments)
        self._begun_at, self._best = step, None
        return ()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Returns the card and a new best value, in a training and if the metric is a number."""
        if self._key is None or evaluation.is_part:
            return ()
        value = evaluation.metrics.get(self._key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return ()
        name = redacted_name(self._key.removeprefix("eval_"))
        records: list[Record] = []
        if self._is_best(value):
            self._best = Best(float(value), step)
            records.append(Scalar(tags.BEST_VALUE.of(name), float(value)))
        elif self._best is not None:
            since = self._best.evaluations_since + 1
            self._best = replace(self._best, evaluations_since=since)
        if self._best is None:
            return ()
        card = best_card(self._best, step, value, self._greater, self._early_stopping())
        return [*records, Text(tags.BEST_METRIC.of(name), card)]

    def _is_best(self, value: float) -> bool:
        if not math.isfinite(value) or self._best is None:
            return math.isfinite(value)
        return value > self._best.value if self._greater else value < self._best.value

    def state(self) -> dict[str, Any] | None:
        """Returns the best evaluation, and what was compared."""
        if self._key is None or self._best is None:
            return None
        return {"metric": self._key, "greater_is_better": self._greater, **asdict(self._best)}

    def load_state(self, state: Any) -> None:
        """Continues from the best evaluation, unless another metric is compared now."""
        best = _best_in(state, self._begun_at)
        if (state["metric"], state.get("greater_is_better")) == (self._key, self._greater):
            self._best = best

    def close(self) -> None:
        """Ends the training. Evaluations after it are not shown."""
        self._key = None


def compared_metric(args: TrainingArguments) -> tuple[str, bool]:
    """Returns the metric that decides which model is the best, and whether greater is better.

    Without `metric_for_best_model` it is the loss.
    """
    name = args.metric_for_best_model
    if name is None:
        return "eval_loss", False
    return name if name.startswith("eval_") else f"eval_{name}", bool(args.greater_is_better)


def early_stopping_of(trainer: Any) -> EarlyStoppingCallback | None:
    """Returns the first `EarlyStoppingCallback` of a trainer, or `None`."""
    callbacks = trainer.callback_handler.callbacks
    return next((c for c in callbacks if isinstance(c, EarlyStoppingCallback)), None)


def best_card(
    best: Best,
    step: int,
    value: float,
    greater_is_better: bool,
    early_stopping: EarlyStoppingCallback | None,
) -> str:
    """Returns the best evaluation so far as a Markdown table.

    Args:
        best: The best evaluation.
        step: Optimizer steps that were taken before the last evaluation.
        value: Of the last evaluation.
        greater_is_better: Whether the best value is the greatest.
        early_stopping: `None`, or what may end the training.
    """
    if best.evaluations_since == 0:
        ago = "at this evaluation"
    else:
        steps, evaluations = step - best.step, best.evaluations_since
        ago = f"{_counted(steps, 'step')} and {_counted(evaluations, 'evaluation')} ago"
    rows = {
        "value": f"{best.value:.6g}",
        "step": f"{best.step:,}",
        "how long ago": ago,
        "last value": f"{value:.6g}",
        "better is": "higher" if greater_is_better else "lower",
    }
    if early_stopping is not None:
        rows["early stopping"] = patience_left(early_stopping)
    card = "\n".join(f"| {key} | {shown} |" for key, shown in rows.items())
    return f"| best so far | |\n|---|---|\n{card}"


def patience_left(callback: EarlyStoppingCallback) -> str:
    """Returns after how many evaluations without improvement the training stops.

    Example:
        >>> patience_left(EarlyStoppingCallback(2, early_stopping_threshold=0.001))
        'stops after 2 more evaluations without improvement of more than 0.001'
    """
    left = callback.early_stopping_patience - callback.early_stopping_patience_counter
    threshold = callback.early_stopping_threshold
    least = f" of more than {threshold:g}" if threshold else ""
    if left <= 0:
        without = _counted(callback.early_stopping_patience_counter, "evaluation")
        return f"stops now, after {without} without improvement{least}"
    return f"stops after {_counted(left, 'more evaluation')} without improvement{least}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _best_in(state: Any, latest: int) -> Best:
    """Returns the best evaluation in a state.

    Raises:
        ValueError: It is not what `BestMetric.state` returns. A checkpoint may hold anything.
    """
    if not isinstance(state, Mapping):
        raise ValueError("the state of the best metric is not an object")
    value: Any = state.get("value")
    step: Any = state.get("step")
    since: Any = state.get("evaluations_since")
    if not (isinstance(state.get("metric"), str) and isinstance(value, float)):
        raise ValueError("the state of the best metric has no valid value")
    if not (math.isfinite(value) and _is_count(step, latest) and _is_count(since, 2**53)):
        raise ValueError("the state of the best metric has no valid counts")
    return Best(value, step, since)


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
