"""The row of a run in TensorBoard's *HParams* dashboard, and its columns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from tbtrainer import tags
from tbtrainer.dashboard_records import HParamsColumns, HParamsEnd, HParamsMetric, HParamsRow
from tbtrainer.observers.best_metric import compared_metric
from tbtrainer.observers.evaluation_metrics import EvaluationMetrics
from tbtrainer.observers.facts import Evaluation, Refusal
from tbtrainer.observers.hyperparameters import columns_of, trial_parameters, values_of
from tbtrainer.observers.log_entries import stock_tag
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.records import Record, Records
from tbtrainer.redaction import redacted_name


class HParams(Observer):
    """Shows the hyper-parameters of a training, its metrics and how it ended.

    The row is written after the first optimizer step: until then `auto_find_batch_size` may change
    the batch size, and TensorBoard takes the first row of a run. For the same reason the columns
    wait for the first evaluation, if there will be one, because its metrics are columns.

    Args:
        expects_evaluation: Returns whether the training can be evaluated.

    Attributes:
        metrics: The metrics of evaluations. Another observer adds them, before this one is called.
    """

    def __init__(self, expects_evaluation: Callable[[], bool]) -> None:
        self.metrics = EvaluationMetrics()
        self._expects_evaluation = expects_evaluation
        self._searched: Mapping[str, Any] = {}
        # Of the last training; `None` until one has begun.
        self._row: HParamsRow | None = None
        self._compared = ""
        self._has_row = self._has_columns = self._was_refused = False

    def begin(self, trial: Any) -> None:
        """Takes note of a training that is about to begin.

        Args:
            trial: Of a hyper-parameter search, or `None`.
        """
        self._searched, self._row = trial_parameters(trial), None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Reads the hyper-parameters."""
        self._row = None
        self._has_row = self._has_columns = self._was_refused = False
        if training.is_world_process_zero:
            self._row = HParamsRow(values_of(training, self._searched), time.time())
            self._compared = compared_metric(training.training_arguments)[0]
        return ()

    def step_taken(self, step: int) -> Records:
        """Returns the row after the first step, and the columns if the metrics are known."""
        return () if self._has_row else self._begun()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Returns the columns after the first evaluation, also if it follows the training."""
        return () if evaluation.is_part else self._columns()

    def step_refused(self, step: int, refusal: Refusal) -> tuple[()]:
        """Takes note that the training ends because something is not finite."""
        self._was_refused = True
        return ()

    def ended(self, error: BaseException | None) -> Records:
        """Returns how the training ended.

        Also if it took no step, as when it is resumed after its last one: the run then has the row
        of an earlier session. Without any row the run leaves the end out.

        Args:
            error: What ended it; `None` if it ended by itself.
        """
        # A search ends trials that are not promising by an error of this name (optuna).
        was_pruned = type(error).__name__ == "TrialPruned"
        is_success = (error is None or was_pruned) and not self._was_refused
        return [*self._begun(), HParamsEnd(is_success)]

    def _begun(self) -> list[Record]:
        if self._row is None or self._has_row:
            return []
        self._has_row = True
        return [self._row, *self._columns()]

    def _columns(self) -> list[Record]:
        is_known = bool(self.metrics.names) or not self._expects_evaluation()
        if self._row is None or self._has_columns or not is_known:
            return []
        self._has_columns = True
        return [
            HParamsColumns(columns_of(self._searched), metrics_shown(self.metrics, self._compared))
        ]


def metrics_shown(metrics: EvaluationMetrics, compared: str) -> list[HParamsMetric]:
    """Returns the columns of metrics, those first that decide which model is the best.

    Args:
        metrics: Those of the evaluations.
        compared: The metric that is compared, as `Trainer` names it: with `eval_`.
    """
    first, names = stock_tag(redacted_name(compared)), metrics.tags()
    shown: list[HParamsMetric] = []
    if first in names:
        best = first.removeprefix("eval/")
        shown.append(HParamsMetric(tags.BEST_VALUE.of(best), f"best {first}"))
    names.sort(key=lambda tag: (tag != first, not tag.endswith("loss")))
    shown += [HParamsMetric(tag, f"last {tag}") for tag in names]
    return [*shown, HParamsMetric("train/loss", "last train/loss", is_of_training=True)]
