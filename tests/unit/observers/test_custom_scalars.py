"""The layout of the Custom Scalars dashboard, and when it is written."""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tbtrainer.dashboard_records import Chart, ChartLayout, MarginChart
from tbtrainer.observers.custom_scalars import CustomScalars, chart_layout
from tbtrainer.observers.evaluation_metrics import EvaluationMetrics
from tbtrainer.observers.facts import Evaluation
from tbtrainer.tags import TAGS

SPEED = {"eval_runtime": 1.0, "eval_samples_per_second": 2.0}


def ended(metrics: dict[str, Any], dataset: str | None = None, is_part: bool = False) -> Evaluation:
    """An evaluation that has ended."""
    return Evaluation({**metrics, **SPEED}, dataset, 1.0, is_part)


def of_datasets(metrics: dict[str, float]) -> EvaluationMetrics:
    """The names after the evaluation of two datasets with a loss and these metrics."""
    found, whole = EvaluationMetrics(), {}
    for dataset in ("short", "long"):
        part = {f"eval_{dataset}_{k}": v for k, v in {"loss": 1.0, **metrics}.items()}
        found.add(ended(part, dataset, is_part=True))
        whole.update(part)
    found.add(ended(whole))
    return found


def training_of(norm_detail: str = "block", optimizer: Any = None, every: int = 2) -> Any:
    """What the observer reads of a training; with an optimizer updates are a target."""
    targets = ["parameters"] if optimizer is None else ["parameters", "updates"]
    return SimpleNamespace(
        max_grad_norm=1.0,
        arguments=SimpleNamespace(norm_detail=norm_detail, histogram_targets=targets),
        optimizer=optimizer,
        schedule=SimpleNamespace(every=every),
    )


def observer_of(scores: Sequence[float] = ()) -> CustomScalars:
    """An observer of a training that has these spike scores."""
    return CustomScalars(EvaluationMetrics(), lambda: len(scores) > 0)


def in_training(scores: Sequence[float] = (), norm_detail: str = "block") -> CustomScalars:
    """An observer whose training has begun."""
    observer = observer_of(scores)
    assert list(observer.run_begins(0, training_of(norm_detail))) == []
    return observer


def layout_of(metrics: EvaluationMetrics, is_clipped: bool = True) -> ChartLayout:
    """The charts of a training that has everything else."""
    return chart_layout(
        metrics, is_clipped=is_clipped, is_detailed=True, has_updates=True, has_spike_scores=True
    )


def matched(layout: ChartLayout, title: str, tags: list[str]) -> list[str]:
    """The tags of which a chart has lines."""
    charts = [c for charts in layout.categories.values() for c in charts if c.title == title]
    (chart,) = charts
    assert isinstance(chart, Chart)
    return [tag for tag in tags if any(re.match(pattern, tag) for pattern in chart.tags)]


def titles(layout: ChartLayout) -> list[str]:
    """Titles of all charts."""
    return [chart.title for charts in layout.categories.values() for chart in charts]


def test_training_and_evaluation_loss_share_a_chart() -> None:
    shown = ["train/loss", "eval/loss", "eval/short_loss", "train/train_loss", "eval/lossy"]
    layout = layout_of(EvaluationMetrics())
    assert matched(layout, "Loss", shown) == shown[:3]


def test_a_metric_of_all_datasets_has_one_chart() -> None:
    metrics = of_datasets({"f1": 0.5})
    layout = layout_of(metrics)
    shown = ["eval/f1", "eval/short_f1", "eval/long_f1", "eval/short_f1_micro", "eval/f12"]
    assert matched(layout, "f1 in evaluation", shown) == shown[:3]
    assert [title for title in titles(layout) if "evaluation" in title] == ["f1 in evaluation"]


def test_runs_with_other_datasets_share_a_chart() -> None:
    single = EvaluationMetrics()
    single.add(ended({"eval_loss": 1.0, "eval_f1": 0.5}))
    layouts = [layout_of(m) for m in (single, of_datasets({"f1": 0.5}))]
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("datasets", [True, False])
def test_metrics_with_equal_ends_have_charts_of_their_own(datasets: bool) -> None:
    values = {"accuracy": 0.5, "balanced_accuracy": 0.5}
    metrics = EvaluationMetrics()
    metrics.add(ended({f"eval_{name}": value for name, value in values.items()}))
    metrics = of_datasets(values) if datasets else metrics
    part = "short_" if datasets else ""
    shown = [f"eval/{part}accuracy", f"eval/{part}balanced_accuracy"]
    layout = layout_of(metrics)
    assert matched(layout, "accuracy in evaluation", shown) == shown[:1]
    assert matched(layout, "balanced_accuracy in evaluation", shown) == shown[1:]


def test_a_metric_that_is_no_number_has_no_chart() -> None:
    metrics = EvaluationMetrics()
    metrics.add(ended({"eval_f1": [0.5, 0.5], "eval_best": "a", "eval_done": True}))
    assert metrics.names == []


def test_a_secret_in_the_name_of_a_metric_is_hidden() -> None:
    metrics = EvaluationMetrics()
    metrics.add(ended({"eval_hf_" + "a1B2c3D4" * 4: 0.5}))
    assert metrics.names == ["<hidden>"]


def test_charts_of_clipping_need_clipping() -> None:
    layouts = [layout_of(EvaluationMetrics(), is_clipped) for is_clipped in (True, False)]
    assert ["Share of clipped steps" in titles(layout) for layout in layouts] == [True, False]


@pytest.mark.parametrize("norm_detail", ["total", "block", "parameter"])
def test_a_chart_of_blocks_needs_their_norms(norm_detail: str) -> None:
    (layout,) = in_training(norm_detail=norm_detail).logging_step(2)
    assert isinstance(layout, ChartLayout)
    assert ("Norm per block" in titles(layout)) == (norm_detail != "total")


class Lomo:
    """Is called like an optimizer that steps in the backward pass."""


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (training_of(optimizer=object()), True),
        (training_of(), False),
        (training_of(optimizer=object(), every=0), False),
        (training_of(optimizer=Lomo()), False),
    ],
    ids=["target", "no target", "no snapshots", "steps in the backward pass"],
)
def test_charts_of_updates_need_updates(training: Any, expected: bool) -> None:
    observer = observer_of()
    observer.run_begins(0, training)
    (layout,) = observer.logging_step(2)
    assert isinstance(layout, ChartLayout)
    assert ("Updates" in layout.categories) == expected
    assert ("Update over parameter, per block" in titles(layout)) == expected


def test_spike_scores_get_a_chart_when_there_are_some() -> None:
    scores: list[float] = []
    observer = in_training(scores)
    (before,) = observer.logging_step(2)
    scores.append(0.0)
    (after,) = observer.logging_step(4)
    assert isinstance(before, ChartLayout) and isinstance(after, ChartLayout)
    assert set(titles(after)) - set(titles(before)) == {"Spike scores"}
    assert list(observer.logging_step(6)) == []


def test_the_margin_is_between_norm_and_maximum() -> None:
    charts = layout_of(EvaluationMetrics()).categories["Gradients"]
    (margin,) = (chart for chart in charts if isinstance(chart, MarginChart))
    assert (margin.value, margin.lower) == ("grad_norm/total",) * 2
    assert margin.upper == "grad_norm/max"


def test_every_pattern_matches_a_declared_tag_or_one_of_stock() -> None:
    layout = layout_of(EvaluationMetrics())
    known = [tag.of("name") for tag in TAGS if tag.kind == "scalar"]
    known += ["train/loss", "eval/loss", "train/learning_rate"]
    patterns = [
        pattern
        for charts in layout.categories.values()
        for chart in charts
        if isinstance(chart, Chart)
        for pattern in chart.tags
    ]
    assert [p for p in patterns if not any(re.match(p, tag) for tag in known)] == []


def test_the_layout_is_written_again_for_a_new_metric() -> None:
    observer = in_training()
    assert len(list(observer.logging_step(2))) == 1
    assert list(observer.logging_step(4)) == []
    assert list(observer.evaluation_ended(6, ended({"eval_loss": 1.0}))) == []
    (layout,) = observer.evaluation_ended(8, ended({"eval_loss": 1.0, "eval_f1": 0.5}))
    assert isinstance(layout, ChartLayout)
    assert "f1 in evaluation" in titles(layout)


def test_an_evaluation_before_training_counts() -> None:
    observer = observer_of()
    assert list(observer.evaluation_ended(0, ended({"eval_f1": 0.5}))) == []
    observer.run_begins(0, training_of())
    (layout,) = observer.logging_step(2)
    assert isinstance(layout, ChartLayout)
    assert "f1 in evaluation" in titles(layout)


def test_a_resumed_training_has_the_same_layout() -> None:
    first, second = in_training(), in_training()
    first.evaluation_ended(2, ended({"eval_short_f1": 0.5}, "short", is_part=True))
    second.load_state(first.state())
    assert list(second.logging_step(4)) == list(first.logging_step(4))


@pytest.mark.parametrize("state", [None, [], {}, {"metrics": [1]}, {"metrics": "f1"}])
def test_a_state_of_somebody_else_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="the state of the metrics"):
        EvaluationMetrics().load_state(state)


def test_a_state_is_bounded_and_has_no_secrets() -> None:
    metrics = EvaluationMetrics()
    names = ["hf_" + "a1B2c3D4" * 4, "x" * 1000, *(f"m{n}" for n in range(1000))]
    metrics.load_state({"metrics": names, "datasets": []})
    assert metrics.names[0] == "<hidden>"
    assert max(map(len, metrics.names)) < 100
    assert len(metrics.names) <= 100


def test_a_dataset_may_begin_with_the_name_of_another() -> None:
    metrics = EvaluationMetrics()
    for dataset in ("mnli", "mnli_mm"):
        found = {f"eval_{dataset}_loss": 0.5, f"eval_{dataset}_accuracy": 0.9}
        metrics.add(Evaluation(found, dataset, 1.0, is_part=True))
    metrics.add(Evaluation({"eval_mnli_loss": 0.5, "eval_mnli_mm_loss": 0.5}, None, 1.0, False))
    assert metrics.names == ["loss", "accuracy"]
