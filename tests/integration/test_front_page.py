"""TensorBoard's dashboards of a whole run, asked over HTTP, with either of its loaders."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import metadata
from torch import nn
from transformers import TrainerCallback

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.observers.hyperparameters import columns_of
from tests.events import event_files, values
from tests.limits import HANG_SECONDS
from tests.tensorboard_server import TensorBoardServer, tensorboard
from tests.tiny import Sequences, arguments, classifier, trainer

optuna = pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]

# Lines of charts that a training on a CPU does not have.
NEEDS_MORE = {"throughput/mfu$", "throughput/tokens_per_second$"}


def metrics_of(_: Any) -> dict[str, float]:
    """What a user computes."""
    return {"accuracy": 0.75, "f1": 0.5}


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


class Fails(TrainerCallback):
    """Ends a training by an error after step 7."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise RuntimeError("as asked for")


def killed_trainings(directory: Path) -> None:
    """Runs `killed` and `died`, each in a process of its own that is sent a signal."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.killed_training", str(directory / run), name],
            cwd=ROOT,
        )
        for run, name in (("killed", "SIGTERM"), ("died", "SIGKILL"))
    ]
    ended = [process.wait(HANG_SECONDS) for process in started]
    assert ended == [-signal.SIGTERM, -signal.SIGKILL]


def searched(directory: Path) -> None:
    """Runs a search of two trials over the learning rate, and over what is no argument."""
    rates = iter([1e-3, 2e-3])

    def model_of(trial: Any) -> nn.Module:
        dropout = 0.0 if trial is None else trial.suggest_float("dropout", 0.25, 0.25)
        return classifier(dropout=dropout)

    args = arguments(
        TBTrainingArguments,
        directory / "out" / "search",
        logging_dir=str(directory / "search"),
        eval_strategy="steps",
        eval_steps=5,
        telemetry_errors="raise",
    )
    made = TBTrainer(
        args=args,
        model_init=model_of,
        train_dataset=Sequences(64),
        eval_dataset=Sequences(16, seed=1),
        compute_metrics=metrics_of,
    )
    made.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", rate := next(rates), rate)
        },
        compute_objective=lambda metrics: metrics["eval_loss"],
        backend="optuna",
        n_trials=2,
    )


def resumed_after_its_end(directory: Path) -> None:
    """Runs a training to its end, and resumes it from there, so that no step is left."""
    saving = {"save_strategy": "steps", "save_steps": 10}
    for checkpoint in (None, str(directory / "out" / "complete" / "checkpoint-10")):
        trainer_of(directory, "complete", **saving).train(resume_from_checkpoint=checkpoint)


def resumed(directory: Path) -> None:
    """Runs a training to its end, and again from step 5 with another rate, to an error."""
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer_of(directory, "resumed", **saving).train()
    checkpoint = str(directory / "out" / "resumed" / "checkpoint-5")
    again = trainer_of(directory, "resumed", **saving, learning_rate=0.25)
    again.add_callback(Fails())
    with pytest.raises(RuntimeError, match="as asked for"):
        again.train(resume_from_checkpoint=checkpoint)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several runs. The user of `own` has a layout, and evaluates after the training."""
    directory = tmp_path_factory.mktemp("runs")
    trainer_of(directory, "datasets").train()
    resumed(directory)
    resumed_after_its_end(directory)
    own = trainer_of(directory, "own", eval_strategy="no")
    own.writer.add_custom_scalars({"Mine": {"My loss": ["Multiline", ["train/loss"]]}})
    own.train()
    own.evaluate()
    searched(directory)
    killed_trainings(directory)
    return directory


@pytest.fixture(scope="module", params=[True, False], ids=["load_fast", "load_slow"])
def server(runs: Path, request: pytest.FixtureRequest) -> Iterator[TensorBoardServer]:
    with tensorboard(runs, load_fast=request.param) as running:
        for run in ("datasets", "complete", "own", "search/run-0", "search/run-1"):
            running.wait_for_run("scalars", run, "train/train_loss")
        for run in ("resumed", "killed", "died"):
            running.wait_for_run("scalars", run, "train/loss")
        yield running


# ---- Custom Scalars ----


def lines(server: TensorBoardServer, run: str, pattern: str) -> set[str]:
    """The scalars of a run that a chart shows for one of its patterns."""
    shown = server.ask("plugin/custom_scalars/scalars", run=run, tag=pattern)
    assert shown["regex_valid"]
    return set(shown["tag_to_events"])


@pytest.fixture(scope="module")
def charts(server: TensorBoardServer) -> dict[str, dict[str, Any]]:
    return charts_of(server)


def charts_of(server: TensorBoardServer) -> dict[str, dict[str, Any]]:
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
    assert empty_charts(server, "datasets", charts) == set()
    assert "Spike scores" not in charts


def test_a_long_run_of_few_norms_has_no_empty_chart(tmp_path: Path) -> None:
    # More steps than a spike score needs.
    changes = {"max_steps": 132, "logging_steps": 66, "eval_steps": 66, "norm_detail": "total"}
    trainer_of(tmp_path / "logdir", "long", **changes).train()
    with tensorboard(tmp_path / "logdir", load_fast=True) as server:
        server.wait_for_run("scalars", "long", "train/train_loss")
        charts = charts_of(server)
        assert empty_charts(server, "long", charts) == set()
    assert "Spike scores" in charts
    assert "Norm per block" not in charts


def empty_charts(
    server: TensorBoardServer, run: str, charts: dict[str, dict[str, Any]]
) -> set[str]:
    """Titles of the charts on which a run has nothing."""
    return {title for title, chart in charts.items() if not shown_lines(server, run, chart)}


def shown_lines(server: TensorBoardServer, run: str, chart: dict[str, Any]) -> set[str]:
    """All scalars of a run that a chart shows."""
    if "margin" in chart:
        (series,) = chart["margin"]["series"]
        return set(series.values()) & set(server.ask("plugin/scalars/tags")[run])
    found = [lines(server, run, tag) for tag in chart["multiline"]["tag"]]
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


# ---- HParams ----


@pytest.fixture(scope="module")
def groups(server: TensorBoardServer) -> dict[str, dict[str, Any]]:
    """The rows of the dashboard, by run. TensorBoard calls them groups, here of one session."""
    request = {
        "experimentName": "",
        "allowedStatuses": [f"STATUS_{s}" for s in ("SUCCESS", "FAILURE", "RUNNING", "UNKNOWN")],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 100,
    }
    shown = server.post("plugin/hparams/session_groups", request)["sessionGroups"]
    assert all(len(group["sessions"]) == 1 for group in shown)
    return {group["name"]: group for group in shown}


@pytest.fixture(scope="module")
def experiment(server: TensorBoardServer) -> dict[str, Any]:
    """The columns of the dashboard."""
    return server.post("plugin/hparams/experiment", {"experimentName": ""})


def metrics_in(group: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Step and value of each metric of a row, by tag."""
    return {
        metric["name"]["tag"]: (metric["trainingStep"], metric["value"])
        for metric in group["metricValues"]
    }


def test_every_training_is_one_row(groups: dict[str, dict[str, Any]]) -> None:
    assert set(groups) == {
        *("datasets", "resumed", "complete", "own", "killed", "died"),
        *("search/run-0", "search/run-1"),
    }


@pytest.mark.parametrize(
    ("run", "status"),
    [
        ("datasets", "SUCCESS"),
        # Its first session ended well, and the one that continued it by an error.
        ("resumed", "FAILURE"),
        ("complete", "SUCCESS"),
        ("killed", "FAILURE"),
        ("died", "UNKNOWN"),
        ("search/run-1", "SUCCESS"),
    ],
)
def test_the_status_is_the_true_one(
    groups: dict[str, dict[str, Any]], run: str, status: str
) -> None:
    (session,) = groups[run]["sessions"]
    assert session["status"] == f"STATUS_{status}"
    assert (session["endTimeSecs"] > session["startTimeSecs"]) == (status != "UNKNOWN")


def test_a_resumed_run_shows_the_values_it_was_resumed_with(
    groups: dict[str, dict[str, Any]],
) -> None:
    assert groups["resumed"]["hparams"]["learning_rate"] == 0.25
    assert groups["datasets"]["hparams"]["learning_rate"] == 1e-3


def test_the_columns_are_the_fixed_ones_of_every_run(experiment: dict[str, Any]) -> None:
    shown = {hparam["name"] for hparam in experiment["hparamInfos"]}
    # Those of the search are there if TensorBoard has taken its columns.
    assert shown - {"dropout"} == {hparam.name for hparam in columns_of({})}
    first = [hparam["name"] for hparam in experiment["hparamInfos"][:5]]
    assert {"learning_rate", "train_batch_size"} <= set(first)


def test_trials_of_a_search_are_comparable_rows(groups: dict[str, dict[str, Any]]) -> None:
    trials = [groups[f"search/run-{number}"]["hparams"] for number in (0, 1)]
    assert [trial["learning_rate"] for trial in trials] == [1e-3, 2e-3]
    assert [trial["dropout"] for trial in trials] == [0.25, 0.25]
    same = set(trials[0]) - {"learning_rate"}
    assert {name for name in same if trials[0][name] != trials[1][name]} == set()


def test_metrics_are_the_last_values_of_the_curves(
    server: TensorBoardServer, experiment: dict[str, Any], groups: dict[str, dict[str, Any]]
) -> None:
    tags = {metric["name"]["tag"] for metric in experiment["metricInfos"]}
    assert any(tag.endswith("accuracy") for tag in tags)
    for run in ("datasets", "complete", "own", "search/run-0"):
        shown = metrics_in(groups[run])
        assert set(shown) == tags & set(server.ask("plugin/scalars/tags")[run])
        for tag, (step, value) in shown.items():
            _, last, expected = server.ask("plugin/scalars/scalars", run=run, tag=tag)[-1]
            assert (step, value) == (last, expected)


def test_each_run_has_columns_of_its_own_metrics(runs: Path) -> None:
    expected = {
        "datasets": ["eval/short_loss", "eval/long_loss", "eval/short_accuracy"],
        "own": ["eval/short_loss", "eval/long_loss", "eval/short_accuracy"],
        "search/run-0": ["hparams/best_loss", "eval/loss", "eval/accuracy"],
    }
    for run, first in expected.items():
        (file,) = event_files(runs / run)
        (value,) = (v for _, v in values(file) if v.tag == metadata.EXPERIMENT_TAG)
        shown = metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content)
        assert [metric.name.tag for metric in shown.metric_infos][:3] == first


def test_a_run_has_no_second_directory(runs: Path) -> None:
    for run in ("datasets", "resumed", "own"):
        assert {file.parent for file in event_files(runs / run)} == {runs / run}


# ---- The first screen ----


def test_evaluation_and_gradient_norms_come_first(server: TensorBoardServer) -> None:
    # The page of time series opens the first two groups and folds the others.
    shown = {
        plugin: server.ask(f"plugin/{plugin}/tags")["datasets"]
        for plugin in ("scalars", "images", "histograms")
    }
    cards = Counter(tag.split("/")[0] for tags in shown.values() for tag in tags)
    assert sorted(cards)[:2] == ["eval", "grad_norm"]
    named = {"grad_norm_per_block", "gradients", "parameters"}
    # `eval` has the metrics of the user, of each dataset.
    assert {g: n for g, n in cards.items() if n > 12 and g not in named | {"eval"}} == {}
