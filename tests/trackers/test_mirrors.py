"""Values that are mirrored reach the real trackers once, at their steps, and change no training."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.launch import launch
from tests.events import Histogram, event_files, histograms, scalars
from tests.limits import HANG_SECONDS
from tests.trackers import trackio_file

ROOT = Path(__file__).parents[2]
STEP = "train/global_step"
# What transformers' callbacks keep elsewhere, or not at all.
NOT_IN_HISTORY = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
NOT_IN_HISTORY |= {"train_loss", "total_flos"}
# Tag, step and value of a scalar.
Scalar = tuple[str, int, str]
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true"}


@dataclass(frozen=True)
class Mirrored:
    """A training that has ended, and what the tracker has of it.

    Attributes:
        directory: Where it ran.
        printed: What it printed: weights, log history, random numbers.
        errors: Its standard error.
        rows: The tracker's rows.
    """

    directory: Path
    printed: dict[str, Any]
    errors: str
    rows: list[dict[str, Any]]

    def recorded(self) -> Counter[Scalar]:
        """How often the tracker has each scalar of its history."""
        return Counter(
            (tag, row[STEP], in_file(value))
            for row in self.rows
            for tag, value in row.items()
            if is_number(value) and tag != STEP and not tag.startswith("_")
        )

    def written(self) -> Counter[Scalar]:
        """How often the event files have each scalar, apart from the user's own calls."""
        return Counter(
            (tag, step, in_file(value))
            for file in event_files(self.directory / "runs")
            for tag, step, value in scalars(file)
            if tag != "users/own"
        )

    def histograms(self) -> dict[tuple[str, int], Histogram]:
        """The histograms of the event files."""
        return {
            k: v for f in event_files(self.directory / "runs") for k, v in histograms(f).items()
        }


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns a training with a tracker, begun in some way; each runs once."""

    @cache
    def run(tracker: str, way: str) -> Mirrored:
        if tracker != "none":
            pytest.importorskip(tracker)
        directory = tmp_path_factory.mktemp(f"{tracker}-{way}")
        ended = started(directory, "mirrored", tracker, way)
        printed = next(x for x in ended.stdout.splitlines() if x.startswith('{"weights"'))
        return Mirrored(directory, json.loads(printed), ended.stderr, rows(tracker, directory))

    return run


def started(directory: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder in a directory, without network, and returns what it printed."""
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT), "HOME": str(directory)}
    environment["TRACKIO_DIR"] = str(directory / "trackio")
    ended = subprocess.run(
        [sys.executable, "-m", f"tests.trackers.{script}", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def rows(tracker: str, directory: Path) -> list[dict[str, Any]]:
    if tracker == "wandb":
        from tests.trackers import wandb_file

        return wandb_file.history(directory)
    return trackio_file.history(directory / "trackio") if tracker == "trackio" else []


def is_number(value: Any) -> bool:
    """Whether a value of a tracker is a number. Trackio stores NaN as text."""
    return isinstance(value, int | float) or value == "NaN"


def in_file(value: Any) -> str:
    """A number as text, in the precision of event files. A NaN is equal to another one then."""
    return str(np.float32(value))


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_each_scalar_arrives_once_at_its_step(tracker: str, mirrored: Any) -> None:
    run = mirrored(tracker, "init")
    tags = {tag for tag, _, _ in run.written()}
    assert {"train/loss", "eval/loss", "grad_norm/total", "own/a*b.c d"} <= tags
    assert run.recorded() == run.written()


@pytest.mark.parametrize("way", ["init", "callback"])
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_each_histogram_arrives_once_as_counts_and_edges(
    tracker: str, way: str, mirrored: Any
) -> None:
    run = mirrored(tracker, way)
    expected = run.histograms()
    arrived = Counter()
    for row in run.rows:
        for tag, counts, edges in histograms_in(tracker, row):
            arrived[tag, row[STEP]] += 1
            written = expected[tag, row[STEP]]
            assert np.array_equal(counts, written.counts)
            assert np.array_equal(edges[1:], written.limits)
            assert edges[0] == written.minimum
    assert arrived == Counter(expected.keys())
    assert {step for _, step in arrived} == {5, 10}


def histograms_in(tracker: str, row: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Tag, counts and edges of the histograms of a row."""
    if tracker == "trackio":
        found = {tag: value for tag, value in row.items() if isinstance(value, dict)}
        return [(tag, value["values"], value["bins"]) for tag, value in found.items()]
    tags = [key.removesuffix("/_type") for key in row if key.endswith("/_type")]
    return [(tag, row[f"{tag}/values"], row[f"{tag}/bins"]) for tag in tags]


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_what_the_callback_logs_arrives_from_it_alone(tracker: str, mirrored: Any) -> None:
    run = mirrored(tracker, "callback")
    stock = Counter(
        (entry["step"], key)
        for entry in run.printed["logged"]
        for key in entry.keys() - {"step"} - NOT_IN_HISTORY
    )
    arrived: Counter[tuple[int, str]] = Counter()
    for (tag, step, _), count in run.recorded().items():
        arrived[step, tag.removeprefix("train/").replace("eval/", "eval_")] += count
    assert {key: arrived[key] for key in stock} == stock
    # The rest comes from tbtrainer, a user's observer included.
    assert arrived[2, "own"] == 1
    others = [scalar for scalar in run.written() if not scalar[0].startswith(("train/", "eval/"))]
    assert len(others) > 100
    assert {scalar: run.recorded()[scalar] for scalar in others} == {
        scalar: run.written()[scalar] for scalar in others
    }


def test_a_wandb_that_follows_event_files_gets_each_value_once(mirrored: Any) -> None:
    run = mirrored("wandb", "sync")
    assert "mirror_to=['wandb'] does nothing" in run.errors
    arrived = Counter(
        (tag.removeprefix("runs/"), row["global_step"]) for row in run.rows for tag in row
    )
    written = Counter((tag, step) for tag, step, _ in run.written().elements())
    # Not more often than it was written; wandb may join equal tags of one step.
    assert all(1 <= arrived[key] <= count for key, count in written.items())
    assert STEP not in {tag for tag, _ in arrived}


@pytest.mark.parametrize(
    ("tracker", "way"), [("wandb", "init"), ("trackio", "init"), ("wandb", "callback")]
)
def test_a_mirror_changes_nothing_of_the_training(tracker: str, way: str, mirrored: Any) -> None:
    assert mirrored(tracker, way).printed == mirrored("none", "none").printed


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_all_values_arrive_before_a_callback_ends_the_run(tracker: str, mirrored: Any) -> None:
    run = mirrored(tracker, "ended")
    assert ("own/slow", 10, "1.0") in run.written()
    assert run.recorded() == run.written()
    assert "missing" not in run.errors


def test_matplotlib_is_imported_before_trackio_logs(mirrored: Any) -> None:
    # Trackio loses scalars that are logged while another thread imports it.
    assert "matplotlib: True" in mirrored("trackio", "init").errors
    assert "matplotlib: True" in mirrored("trackio", "callback").errors
    # Without Trackio a training does not wait for it.
    assert "matplotlib: False" in mirrored("wandb", "init").errors


def test_an_import_in_another_thread_loses_no_values(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    started(tmp_path, "slow_import")
    (row,) = trackio_file.history(tmp_path / "trackio")
    assert (row["loss"], row[STEP], row["_step"]) == (0.5, 3, 3)


@pytest.mark.parametrize(("way", "runs"), [("callback", 2), ("init", 1)])
def test_trials_go_to_the_run_that_is_current(way: str, runs: int, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    started(tmp_path, "search", way)
    files = list((tmp_path / "wandb").rglob("*.wandb"))
    assert len(files) == runs
    for file in files:
        steps = [row[STEP] for row in rows("wandb", file.parent) if "grad_norm/total" in row]
        assert steps == [2, 4, 6, 8, 10] * (2 // runs)


@pytest.mark.parametrize(
    ("what", "warnings"),
    [
        ("killed", ["could not mirror values to wandb", "values are missing in wandb"]),
        ("hung", ["values are missing in wandb", "wait, because wandb does not answer"]),
        ("finished", ["not mirrored to wandb, because it has no run now"]),
    ],
)
def test_a_lost_wandb_changes_nothing(
    what: str, warnings: list[str], mirrored: Any, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    ended = started(tmp_path, "lost_wandb", what)
    printed = next(x for x in ended.stdout.splitlines() if x.startswith('{"weights"'))
    assert json.loads(printed) == mirrored("none", "none").printed
    assert [ended.stderr.count(warning) for warning in warnings] == [1] * len(warnings)
    written = {tag for file in event_files(tmp_path / "runs") for tag, _, _ in scalars(file)}
    assert {"train/loss", "eval/loss", "grad_norm/total"} <= written


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_cards_and_the_users_own_calls_are_not_mirrored(tracker: str, mirrored: Any) -> None:
    run = mirrored(tracker, "init")
    tags = {tag for row in run.rows for tag in row}
    assert not {tag for tag in tags if tag.startswith(("note", "args", "users/", "run/"))}
    secret = b"MARKER7f3a9cMARKER"
    files = [file for file in run.directory.rglob("*") if file.is_file()]
    assert [file for file in files if secret in file.read_bytes()] == []


def test_the_axis_of_every_tag_is_the_step(mirrored: Any) -> None:
    run = mirrored("wandb", "init")
    assert all(STEP in row for row in run.rows)
    # wandb's own numbers are not the steps: a histogram is later than scalars of later steps.
    assert [row["_step"] for row in run.rows] == list(range(len(run.rows)))


@pytest.mark.parametrize("named_on", ["all", "first"])
def test_without_a_run_no_rank_begins_to_train(named_on: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    first, second = launch("../trackers/training_without_run.py", str(tmp_path), named_on)
    assert "mirror_to=['wandb']: wandb has no run" in first
    assert "Call wandb.init(project=...) before train()" in first
    assert second == "Training does not begin: world rank zero raised the reason."
