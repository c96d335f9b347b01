"""Trackers that follow a stock `SummaryWriter` follow ours: the real packages, offline.

`make test-trackers` installs them. A test of one that is not installed is left out.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
# Times differ from one training to the next.
TIMES = re.compile(r"(runtime|_per_second)$")
OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "SWANLAB_MODE": "offline",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "CLEARML_OFFLINE_MODE": "1",
}

# By default ClearML forks a process that reports. In a process with threads that may hang.
CLEARML_CONFIGURATION = "sdk { development { report_use_subprocess: false } }"

Scalar = tuple[str, int, float]


def training_followed_by(
    tracker: str, kind: str, directory: Path
) -> tuple[list[Scalar], list[Scalar]]:
    """Trains in a process of its own.

    Returns:
        What the tracker recorded, and what the event files hold; times left out.
    """
    directory.mkdir()
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT), "HOME": str(directory)}
    environment["CLEARML_CACHE_DIR"] = str(directory / "clearml")
    environment["CLEARML_CONFIG_FILE"] = str(directory / "clearml.conf")
    (directory / "clearml.conf").write_text(CLEARML_CONFIGURATION)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.trackers.training", tracker, kind],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    # Trackers print to the standard output too.
    printed = next(line for line in ended.stdout.splitlines() if line.startswith('{"recorded"'))
    recorded, written = (
        [(tag, step, value) for tag, step, value in scalars if not TIMES.search(tag)]
        for scalars in json.loads(printed).values()
    )
    return recorded, written


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tracker", ["wandb", "swanlab", "mlflow", "clearml"])
def test_a_tracker_records_what_stock_gives_it_once(tracker: str, tmp_path: Path) -> None:
    pytest.importorskip(tracker)
    stock, _ = training_followed_by(tracker, "stock", tmp_path / "stock")
    ours, written = training_followed_by(tracker, "tbtrainer", tmp_path / "tbtrainer")
    tags = {tag for tag, _, _ in stock}
    assert {"train/loss", "eval/loss"} <= tags
    assert {scalar for scalar in ours if scalar[0] in tags} == set(stock)
    assert {tag for tag, _, _ in ours} == {tag for tag, _, _ in written}
    # Not more often than it was written; wandb joins equal tags of one step.
    times_written = Counter((tag, step) for tag, step, _ in written)
    times_recorded = Counter((tag, step) for tag, step, _ in ours)
    assert times_recorded <= times_written
