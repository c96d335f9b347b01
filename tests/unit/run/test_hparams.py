"""HParams in the files of a run: one row, its last end, and what a resume does to them."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import metadata

from tbtrainer.dashboard_records import HParam, HParamsColumns, HParamsEnd, HParamsRow
from tbtrainer.records import Scalar
from tbtrainer.run import RunWriter, rewind
from tbtrainer.run.open_run import OpenRun
from tbtrainer.run.rewind import remove_summaries
from tests.events import event_files, events, values
from tests.rewinding import contents, records

ROW, END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG
SUCCESS, FAILURE = 1, 2


def opened(directory: Path, earlier: OpenRun | None = None) -> OpenRun:
    """A run in a directory, which may continue an earlier session."""
    run = OpenRun(RunWriter(str(directory)), "id", str(directory))
    if earlier is not None:
        run.continues(earlier.cards)
    return run


def row(**shown: Any) -> HParamsRow:
    """A row that began at some time."""
    return HParamsRow(shown, began=1.0)


def contents_of(directory: Path, tag: str) -> list[Any]:
    """What the plugin finds under a tag, in the order read."""
    return [
        metadata.plugin_data_pb2.HParamsPluginData.FromString(v.metadata.plugin_data.content)
        for file in event_files(directory)
        for _, v in values(file)
        if v.tag == tag
    ]


def rates(directory: Path) -> list[float]:
    """The learning rates of all rows."""
    found = contents_of(directory, ROW)
    return [data.session_start_info.hparams["lr"].number_value for data in found]


def statuses(directory: Path) -> list[int]:
    """How the sessions of the run ended."""
    return [data.session_end_info.status for data in contents_of(directory, END)]


def session(directory: Path, lr: float, *, ends: bool, earlier: OpenRun | None = None) -> OpenRun:
    """A session that writes its row, some scalars, and how it ended."""
    run = opened(directory, earlier)
    run.write([row(lr=lr)], 1)
    for step in range(1, 6):
        run.write([Scalar("loss", step)], step)
    run.write([HParamsEnd(ends)], 5)
    run.close()
    return run


def test_a_run_has_one_row_and_one_end(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.write([row(lr=0.5), row(lr=0.5), row(lr=0.25)], 1)
    run.write([HParamsEnd(False), HParamsEnd(True)], 5)
    run.close()
    assert rates(tmp_path) == [0.5]
    assert statuses(tmp_path) == [FAILURE]


def test_they_are_in_the_event_file_of_the_run(tmp_path: Path) -> None:
    session(tmp_path, 0.5, ends=True)
    assert len(event_files(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == event_files(tmp_path)


def test_an_end_without_a_row_is_left_out(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.write([Scalar("loss", 1.0), HParamsEnd(True)], 5)
    run.close()
    assert statuses(tmp_path) == []


@pytest.mark.parametrize("step", [0, 3, 5, 9])
def test_a_rewind_removes_the_end_and_keeps_the_row(tmp_path: Path, step: int) -> None:
    session(tmp_path, 0.5, ends=True)
    rewind(str(tmp_path), step)
    assert rates(tmp_path) == [0.5]
    assert statuses(tmp_path) == []
    once = contents(tmp_path)
    rewind(str(tmp_path), step)
    assert contents(tmp_path) == once


def test_a_resumed_session_says_how_it_ended_itself(tmp_path: Path) -> None:
    first = session(tmp_path, 0.5, ends=False)
    rewind(str(tmp_path), 3)
    session(tmp_path, 0.5, ends=True, earlier=first)
    assert rates(tmp_path) == [0.5]
    assert statuses(tmp_path) == [SUCCESS]


def test_a_resumed_session_with_other_values_replaces_the_row(tmp_path: Path) -> None:
    first = session(tmp_path, 0.5, ends=False)
    before = {record for path in event_files(tmp_path) for record in records(path)}
    rewind(str(tmp_path), 3)
    session(tmp_path, 0.25, ends=True, earlier=first)
    assert rates(tmp_path) == [0.25]
    # Nothing is lost: what was taken out lies beside.
    assert before <= {record for path in tmp_path.iterdir() for record in records(path)}


def test_only_the_summaries_of_a_tag_are_taken_out(tmp_path: Path) -> None:
    session(tmp_path, 0.5, ends=True)
    kept = [e for e in events(event_files(tmp_path)[0]) if ROW not in str(e)]
    remove_summaries(str(tmp_path), ROW)
    assert list(events(event_files(tmp_path)[0])) == kept
    once = contents(tmp_path)
    remove_summaries(str(tmp_path), ROW)
    assert contents(tmp_path) == once


def test_the_rows_of_add_hparams_are_not_touched(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.writer.add_hparams({"rate": 0.1}, {"accuracy": 0.9}, run_name="mine")
    run.write([row(lr=0.5), HParamsEnd(True)], 1)
    run.close()
    before = contents(tmp_path / "mine")
    rewind(str(tmp_path), 5)
    remove_summaries(str(tmp_path), ROW)
    assert contents(tmp_path / "mine") == before


def test_secrets_and_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    token = "hf_" + "a1B2c3D4" * 4
    run = opened(tmp_path)
    shown = {"lr": 0.5, "api_key": "x7f3a9c", "url": f"https://u:{token}@host", "nan": float("nan")}
    run.write([row(**shown, **{token: "named"}), HParamsColumns([HParam(token, "text")], [])], 1)
    run.close()
    (data,) = contents_of(tmp_path, ROW)
    written = data.session_start_info.hparams
    assert set(written) == {"lr", "api_key", "url", "<hidden>"}
    assert written["api_key"].string_value == "<hidden>"
    (file,) = event_files(tmp_path)
    assert token.encode() not in file.read_bytes()
    assert b"x7f3a9c" not in file.read_bytes()
