"""`writer.add_hparams` beside the row of a run: TensorBoard shows both, with all columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.dashboard_records import (
    HParam,
    HParamsColumns,
    HParamsEnd,
    HParamsMetric,
    HParamsRow,
)
from tbtrainer.records import Scalar
from tbtrainer.run import RunWriter, rewind
from tbtrainer.run.open_run import OpenRun
from tests.events import event_files
from tests.tensorboard_server import TensorBoardServer, tensorboard

OWN = [HParam(name, "number", is_prominent=True) for name in ("lr", "epochs")]
COLUMNS = HParamsColumns(OWN, [HParamsMetric("eval/loss", "last eval/loss")])
BEGAN = 1_700_000_000.0


def opened(directory: Path) -> OpenRun:
    """A run with a row."""
    run = OpenRun(RunWriter(str(directory)), "id", str(directory))
    run.write([HParamsRow({"lr": 0.5, "epochs": 3.0}, BEGAN)], 1)
    return run


def added(run: OpenRun) -> None:
    """What a user adds to a run."""
    run.writer.add_hparams({"depth": 4, "kind": "a"}, {"score": 0.75}, run_name="mine")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: a user adds hyper-parameters before and after the columns are written."""
    directory = tmp_path_factory.mktemp("runs")
    for name in ("before", "after"):
        run = opened(directory / name)
        if name == "before":
            added(run)
        run.write([Scalar("eval/loss", 0.25), COLUMNS], 2)
        if name == "after":
            added(run)
        run.write([HParamsEnd(True)], 2)
        run.close()
    return directory


@pytest.fixture(
    scope="module",
    params=[(name, fast) for name in ("before", "after") for fast in (True, False)],
    ids=lambda param: f"{param[0]}-{'load_fast' if param[1] else 'load_slow'}",
)
def server(runs: Path, request: pytest.FixtureRequest) -> Iterator[TensorBoardServer]:
    name, load_fast = request.param
    with tensorboard(runs / name, load_fast) as running:
        running.wait_for_run("scalars", "mine", "score")
        running.wait_for_run("scalars", ".", "eval/loss")
        yield running


def test_the_columns_are_those_of_both(server: TensorBoardServer) -> None:
    shown = server.post("plugin/hparams/experiment", {"experimentName": ""})
    prominent = {hparam["name"] for hparam in shown["hparamInfos"] if hparam["differs"]}
    assert prominent == {"lr", "epochs", "depth", "kind"}
    assert [m["name"]["tag"] for m in shown["metricInfos"]] == ["score", "eval/loss"]


def test_both_rows_have_their_values_and_metrics(server: TensorBoardServer) -> None:
    request: dict[str, Any] = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 10,
    }
    shown = server.post("plugin/hparams/session_groups", request)["sessionGroups"]
    rows = {group["sessions"][0]["name"]: group for group in shown}
    assert set(rows) == {".", "mine"}
    assert rows["."]["hparams"] == {"lr": 0.5, "epochs": 3.0}
    assert rows["mine"]["hparams"] == {"depth": 4.0, "kind": "a"}
    metrics = {name: [m["value"] for m in row["metricValues"]] for name, row in rows.items()}
    assert metrics == {".": [0.25], "mine": [0.75]}


def test_without_add_hparams_there_is_no_other_file(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.write([COLUMNS], 2)
    run.close()
    assert len(event_files(tmp_path)) == 1


def test_a_rewind_changes_nothing_of_what_was_added(runs: Path) -> None:
    run = runs / "after"
    before = {path: path.read_bytes() for path in event_files(run / "mine")}
    first = event_files(run)[0]
    assert "0000000000" in first.name
    before[first] = first.read_bytes()
    rewind(str(run), 2)
    assert {path: path.read_bytes() for path in before} == before
