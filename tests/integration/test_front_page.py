"""TensorBoard's dashboards of a whole run, asked over HTTP, with either of its loaders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, values
from tests.tensorboard_server import TensorBoardServer, tensorboard
from tests.tiny import Sequences, arguments, trainer

# Lines of charts that a training on a CPU does not have.
NEEDS_MORE = {"throughput/mfu$", "throughput/tokens_per_second$"}


def metrics_of(_: Any) -> dict[str, float]:
    """What a user computes."""
    return {"accuracy": 0.75, "balanced_accuracy": 0.5}


def trainer_of(directory: Path, name: str, **changes: Any) -> Any:
    """A trainer whose run has a name."""
    values = {"eval_strategy": "steps", "eval_steps": 5, "telemetry_errors": "raise"}
    args = arguments(
        TBTrainingArguments,
        directory / "out" / name,
        logging_dir=str(directory / name),
        **{**values, **changes},
    )
    datasets = {"short": Sequences(16, seed=1), "long": Sequences(16, seed=2)}
    return trainer(TBTrainer, args, eval_dataset=datasets, compute_metrics=metrics_of)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several runs: `resumed` continued from step 5, and the user of `own` has a layout."""
    directory = tmp_path_factory.mktemp("runs")
    trainer_of(directory, "datasets").train()
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer_of(directory, "resumed", **saving).train()
    checkpoint = str(directory / "out" / "resumed" / "checkpoint-5")
    trainer_of(directory, "resumed", **saving).train(resume_from_checkpoint=checkpoint)
    own = trainer_of(directory, "own")
    own.writer.add_custom_scalars({"Mine": {"My loss": ["Multiline", ["train/loss"]]}})
    own.train()
    return directory


@pytest.fixture(scope="module", params=[True, False], ids=["load_fast", "load_slow"])
def server(runs: Path, request: pytest.FixtureRequest) -> Iterator[TensorBoardServer]:
    with tensorboard(runs, load_fast=request.param) as running:
        for run in ("datasets", "resumed", "own"):
            running.wait_for_run("scalars", run, "train/train_loss")
        yield running


# ---- Custom Scalars ----


def lines(server: TensorBoardServer, run: str, pattern: str) -> set[str]:
    """The scalars of a run that a chart shows for one of its patterns."""
    shown = server.ask("plugin/custom_scalars/scalars", run=run, tag=pattern)
    assert shown["regex_valid"]
    return set(shown["tag_to_events"])


@pytest.fixture(scope="module")
def charts(server: TensorBoardServer) -> dict[str, dict[str, Any]]:
    """The charts of the dashboard, by title."""
    layout = server.ask("plugin/custom_scalars/layout")
    return {chart["title"]: chart for group in layout["category"] for chart in group["chart"]}


def test_the_layout_of_a_user_is_not_replaced(server: TensorBoardServer) -> None:
    # TensorBoard merges the layouts of all runs.
    layout = server.ask("plugin/custom_scalars/layout")
    assert [group["title"] for group in layout["category"]].count("Mine") == 1
    assert [group["title"] for group in layout["category"]].count("Memory") == 1


def test_a_resumed_training_does_not_write_its_layout_again(runs: Path) -> None:
    layouts = [
        value
        for file in event_files(runs / "resumed")
        for _, value in values(file)
        if value.tag == "custom_scalars__config__"
    ]
    # The first one was written before the metrics were known.
    assert len(event_files(runs / "resumed")) == 2
    assert len(layouts) == 2


def test_the_losses_of_training_and_evaluation_share_a_chart(
    server: TensorBoardServer, charts: dict[str, dict[str, Any]]
) -> None:
    shown = [lines(server, "datasets", tag) for tag in charts["Loss"]["multiline"]["tag"]]
    assert set.union(*shown) == {"train/loss", "eval/short_loss", "eval/long_loss"}


def test_a_metric_has_one_chart_of_all_datasets(
    server: TensorBoardServer, charts: dict[str, dict[str, Any]]
) -> None:
    (pattern,) = charts["accuracy in evaluation"]["multiline"]["tag"]
    shown = lines(server, "datasets", pattern)
    assert shown == {"eval/short_accuracy", "eval/long_accuracy"}


def test_every_line_of_every_chart_exists(
    server: TensorBoardServer, charts: dict[str, dict[str, Any]]
) -> None:
    empty = {
        pattern
        for chart in charts.values()
        for pattern in chart.get("multiline", {}).get("tag", [])
        if not lines(server, "datasets", pattern)
    }
    assert {p for p in empty if p.startswith(("train", "eval", "grad_norm/", "throughput"))} <= (
        NEEDS_MORE
    )
    assert {title for title, chart in charts.items() if not shown_lines(server, chart)} == {
        "Spike scores"
    }


def shown_lines(server: TensorBoardServer, chart: dict[str, Any]) -> set[str]:
    """All scalars that a chart shows."""
    if "margin" in chart:
        (series,) = chart["margin"]["series"]
        return set(series.values()) & set(server.tags("scalars"))
    found = [lines(server, "datasets", tag) for tag in chart["multiline"]["tag"]]
    return set.union(*found)


def test_the_margin_chart_has_its_three_lines(
    server: TensorBoardServer, charts: dict[str, dict[str, Any]]
) -> None:
    (series,) = charts["Norm, up to its maximum"]["margin"]["series"]
    assert series == {
        "value": "grad_norm/total",
        "lower": "grad_norm/total",
        "upper": "grad_norm/max",
    }
    assert set(series.values()) <= set(server.tags("scalars"))
