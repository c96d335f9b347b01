"""States of observers survive a resume, within the limit of the marker, and stay plain JSON."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.run import RunSession
from tbtrainer.run.saved_run import MOST_BYTES, RUN_FILE

STATE = {"history": [1.5, -2.0, 3e-300], "count": 7, "name": "grad_norm", "none": None, "on": True}


def made(directory: Path) -> RunSession:
    return RunSession(None, str(directory), writes=True)


def saved(directory: Path, states: dict[str, Any], name: str = "checkpoint-7") -> Path:
    """A checkpoint of step 7 with these states."""
    checkpoint = directory / name
    checkpoint.mkdir(parents=True)
    run = made(directory)
    run.begin_training(None, "auto", None)
    run.mark_checkpoint(str(checkpoint), 7, states)
    run.close()
    return checkpoint


def resumed(directory: Path, checkpoint: Path, resume: str = "auto") -> dict[str, Any]:
    run = made(directory)
    run.begin_training(str(checkpoint), resume, None)
    states = dict(run.saved_observers)
    run.close()
    return states


def change(checkpoint: Path, **changes: object) -> None:
    values = {**json.loads((checkpoint / RUN_FILE).read_text()), **changes}
    values = {name: value for name, value in values.items() if value is not ...}
    (checkpoint / RUN_FILE).write_text(json.dumps(values))


def test_a_resumed_training_has_the_saved_states(tmp_path: Path) -> None:
    states = {"spikes": STATE, "list": [1, [2.5]], "number": 3}
    assert resumed(tmp_path, saved(tmp_path, states)) == states


@pytest.mark.parametrize("where, resume", [("same", "new"), ("other", "auto")])
def test_a_new_run_of_the_checkpoint_has_its_states(
    where: str, resume: str, tmp_path: Path
) -> None:
    checkpoint = saved(tmp_path / "same", {"spikes": STATE})
    assert resumed(tmp_path / where, checkpoint, resume) == {"spikes": STATE}


def test_a_training_that_begins_anew_has_no_states(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert dict(run.saved_observers) == {}
    run.begin_training(str(saved(tmp_path, {"spikes": STATE})), "auto", None)
    run.begin_training(None, "auto", None)
    assert dict(run.saved_observers) == {}
    run.close()


def test_a_marker_without_states_is_readable(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, {"spikes": STATE})
    change(checkpoint, observers=...)
    run = made(tmp_path)
    run.begin_training(str(checkpoint), "auto", None)
    assert dict(run.saved_observers) == {}
    assert len(list((tmp_path / "runs").iterdir())) == 1
    run.close()


@pytest.mark.parametrize("changes", [{"step": 6}, {"observers": [1]}, {"run_id": 3}], ids=str)
def test_a_marker_that_is_wrong_has_no_states(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, {"spikes": STATE})
    change(checkpoint, **changes)
    assert resumed(tmp_path, checkpoint) == {}


def test_states_of_a_neighbouring_checkpoint_are_not_taken(tmp_path: Path) -> None:
    saved(tmp_path, {"spikes": STATE})
    (tmp_path / "checkpoint-9").mkdir()
    assert resumed(tmp_path, tmp_path / "checkpoint-9") == {}


def test_a_renamed_checkpoint_keeps_its_states(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, {"spikes": STATE})
    shutil.move(checkpoint, tmp_path / "best")
    assert resumed(tmp_path, tmp_path / "best") == {"spikes": STATE}


def test_other_ranks_have_no_states(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, {"spikes": STATE})
    run = RunSession(None, str(tmp_path), writes=False)
    run.begin_training(str(checkpoint), "auto", None)
    assert dict(run.saved_observers) == {}


def test_the_largest_states_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = {"large": "word " * 30_000, "larger": "word " * 31_000, "spikes": STATE}
    run = made(tmp_path)
    for step in (7, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
        with caplog.at_level(logging.WARNING):
            run.mark_checkpoint(str(tmp_path / f"checkpoint-{step}"), step, large)
    run.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert ": larger (" in caplog.text
    assert set(resumed(tmp_path, tmp_path / "checkpoint-8")) == {"large", "spikes"}
    assert (tmp_path / "checkpoint-8" / RUN_FILE).stat().st_size <= MOST_BYTES


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(object(), id="object"),
        *({"x": math.nan}, [math.inf], {1, 2}, b"bytes", CIRCLE, {(1, 2): 3}),
    ],
    ids=str,
)
def test_a_state_that_is_not_json_is_left_out(
    state: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        checkpoint = saved(tmp_path, {"odd": state, "spikes": STATE})
    assert caplog.text.count("not saved in checkpoints: odd (they are not JSON)") == 1
    assert resumed(tmp_path, checkpoint) == {"spikes": STATE}


def test_no_secret_of_a_state_is_in_a_checkpoint(tmp_path: Path) -> None:
    state = {"url": "s3://id:MARKER7f3a9c@bucket", "api_key": "MARKER7f3a9c"}
    checkpoint = saved(tmp_path, {"odd": state})
    assert "MARKER7f3a9c" not in (checkpoint / RUN_FILE).read_text()
