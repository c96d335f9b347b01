"""The layout of TensorBoard's *Custom Scalars* dashboard: several curves on one chart."""

import re
from collections.abc import Callable
from typing import Any

from tbtrainer import tags
from tbtrainer.dashboard_records import Chart, ChartLayout, MarginChart
from tbtrainer.observers.evaluation_metrics import EvaluationMetrics
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.observers.updates import shows_updates
from tbtrainer.records import Records

# Also of a dictionary of datasets: `eval/<dataset>_loss`.
_LOSSES = ("train/loss$", "eval/(.+_)?loss$")


class CustomScalars(Observer):
    """Shows curves together that are read together.

    The charts are regular expressions, so the layout is the same for all models. A chart that would
    be empty is left out. Each metric gets a chart after the first evaluation of the training in
    which it is seen, and the spike scores get one when there are some, which takes 129 steps.

    Args:
        metrics: Where they are remembered, over a resume, too.
        has_spike_scores: Returns whether the training has spike scores so far.
    """

    def __init__(self, metrics: EvaluationMetrics, has_spike_scores: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._has_spike_scores = has_spike_scores
        self._training: Training | None = None
        self._is_clipped = self._is_detailed = self._has_updates = False
        self._shown: ChartLayout | None = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Takes note of what there will be to show."""
        self._shown, self._training = None, training
        self._is_clipped = training.max_grad_norm > 0
        self._is_detailed = training.arguments.norm_detail != "total"
        self._has_updates = shows_updates(training)
        return ()

    def logging_step(self, step: int) -> Records:
        """Returns the layout, if it is not written yet or if a chart is added to it."""
        return self._changed()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Returns the layout with charts of new metrics, in a training."""
        self._metrics.add(evaluation)
        return () if evaluation.is_part else self._changed()

    def state(self) -> dict[str, Any]:
        """Returns the names of the metrics, whose charts a resumed training keeps."""
        return self._metrics.state()

    def load_state(self, state: Any) -> None:
        """Continues with the names of the metrics."""
        self._metrics.load_state(state)

    def close(self) -> None:
        """Ends the training."""
        self._training = None

    def _changed(self) -> Records:
        if self._training is None:
            return ()
        layout = chart_layout(
            self._metrics,
            is_clipped=self._is_clipped,
            is_detailed=self._is_detailed,
            has_updates=self._has_updates,
            has_spike_scores=self._has_spike_scores(),
        )
        if layout == self._shown:
            return ()
        self._shown = layout
        return [layout]


def chart_layout(
    metrics: EvaluationMetrics,
    *,
    is_clipped: bool,
    is_detailed: bool,
    has_updates: bool,
    has_spike_scores: bool,
) -> ChartLayout:
    """Returns the charts of a training.

    Args:
        metrics: What its evaluations have.
        is_clipped: Whether gradients are clipped.
        is_detailed: Whether there are gradient norms of blocks or parameters.
        has_updates: Whether updates are shown.
        has_spike_scores: Whether there are spike scores.
    """
    of_metrics = [
        Chart(f"{name} in evaluation", [_of_all_datasets(name, metrics)])
        for name in metrics.names
        if name != "loss"
    ]
    rates = Chart("Learning rate", ["train/learning_rate$", tags.LEARNING_RATE.regex])
    return ChartLayout(
        {
            "Loss and metrics": [Chart("Loss", _LOSSES), *of_metrics, rates],
            "Gradients": _gradients(is_clipped, is_detailed),
            **({"Updates": _updates()} if has_updates else {}),
            "Throughput": _throughput(),
            "Memory": [_memory()],
            "Health": _health(has_spike_scores),
        }
    )


def _of_all_datasets(name: str, metrics: EvaluationMetrics) -> str:
    """Returns a pattern for a metric of any dataset: `eval/accuracy` and `eval/<dataset>_accuracy`.

    It is the same for all runs, because TensorBoard shows different charts of one title beside each
    other. Only if the name of another metric has the same end, the datasets are named.
    """
    has_same_end = any(other.endswith(f"_{name}") for other in metrics.names)
    datasets = "|".join(f"{re.escape(dataset)}_" for dataset in metrics.datasets)
    return f"eval/({datasets if has_same_end else '.+_'})?{re.escape(name)}$"


def _gradients(is_clipped: bool, is_detailed: bool) -> list[Chart | MarginChart]:
    norm = tags.GRAD_NORM_TOTAL.name
    charts: list[Chart | MarginChart] = [
        MarginChart("Norm, up to its maximum", norm, norm, tags.GRAD_NORM_MAX.name)
    ]
    if is_detailed:
        parts = (tags.GRAD_NORM_PER_BLOCK, tags.GRAD_NORM_PER_PARAMETER)
        charts.append(_chart("Norm per block", *parts))
    if is_clipped:
        charts += [
            _chart("Norm before and after clipping", tags.GRAD_NORM_TOTAL, tags.GRAD_NORM_CLIPPED),
            _chart("Share of clipped steps", tags.GRAD_NORM_CLIP_FRACTION),
        ]
    return charts


def _updates() -> list[Chart]:
    return [
        _chart("Update over parameter, per block", tags.UPDATE_RATIO),
        _chart("Share of unchanged elements, per block", tags.UPDATE_UNCHANGED),
    ]


def _throughput() -> list[Chart]:
    return [
        _chart("Seconds per step", tags.STEP_SECONDS, tags.STEP_SECONDS_P95),
        _chart("Seconds per phase of a step", tags.STEP_PHASES),
        _chart("Tokens and samples per second", tags.TOKENS_PER_SECOND, tags.SAMPLES_PER_SECOND),
        _chart("Share of waiting for data, and MFU", tags.DATA_WAIT_FRACTION, tags.MFU),
    ]


def _memory() -> Chart:
    of_device = (tags.MEMORY_ALLOCATED, tags.MEMORY_RESERVED, tags.MEMORY_PEAK)
    return _chart("GiB", *of_device, tags.MEMORY_HOST)


def _health(has_spike_scores: bool) -> list[Chart]:
    counts = (tags.NONFINITE_LOSSES, tags.NONFINITE_GRADIENTS, tags.SKIPPED_STEPS)
    of_evaluations = (tags.NONFINITE_EVAL_BATCHES, tags.NONFINITE_EVAL_BATCHES_OF)
    charts = [_chart("Not finite, and skipped steps", *counts, *of_evaluations)]
    if has_spike_scores:
        scores = (tags.LOSS_SPIKE_SCORE, tags.GRAD_NORM_SPIKE_SCORE)
        charts.append(_chart("Spike scores", *scores))
    return charts


def _chart(title: str, *shown: tags.Tag) -> Chart:
    return Chart(title, [tag.regex for tag in shown])
