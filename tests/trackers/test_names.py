"""Names of our event files are among those that other programs read."""

import re
import socket
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import io_wrapper

from tbtrainer.event_file.names import PART_OF_RUN
from tbtrainer.run import RunWriter
from tests.events import event_files


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Names of a run's event files, begun after the one of another program."""
    (tmp_path / f"events.out.tfevents.{int(time.time()) + 60}.{socket.gethostname()}.1.0").touch()
    with RunWriter(str(tmp_path)) as writer:
        writer.add_scalar("value", 1.0, 1)
        writer.add_scalars("chart", {"a": 1.0}, 1)
    return [file.name for file in event_files(tmp_path) if file.stat().st_size]


def test_tensorboard_reads_files_of_these_names(names: list[str]) -> None:
    assert len(names) == 2
    assert all(map(io_wrapper.IsTensorFlowEventsFile, names))
    assert all(map(io_wrapper.IsSummaryEventsFile, names))


def test_wandb_reads_files_of_these_names(names: list[str]) -> None:
    # The rule of `TFEventsFileFilter.Matches` in wandb-core (wandb 0.17 to 0.31), a program in Go.
    # test_trackers.py runs the program itself.
    began = int(time.time()) - 60
    for name in names:
        found = re.search(rf"tfevents\.(\d+)\.{re.escape(socket.gethostname())}", name)
        assert found is not None
        assert int(found.group(1)) >= began
        assert not name.endswith((".profile-empty", ".sagemaker-uploaded"))


def test_only_files_of_series_have_a_suffix(names: list[str]) -> None:
    assert sorted(name.endswith(PART_OF_RUN) for name in names) == [False, True]
