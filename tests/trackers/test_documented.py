"""The code of the page about trackers runs, and each tracker then has its values."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import GIVEN, ROOT, python_blocks
from tests.limits import HANG_SECONDS

BLOCKS = python_blocks("trackers.md")
# In the order of the page.
TRACKERS = ["wandb", "trackio", "wandb", "wandb", "swanlab", "mlflow", "clearml"]


@pytest.mark.parametrize(
    ("tracker", "block"),
    list(zip(TRACKERS, BLOCKS, strict=True)),
    ids=["mirrored wandb", "mirrored trackio", "callback", "sync", "swanlab", "mlflow", "clearml"],
)
def test_the_documented_code_brings_values_to_the_tracker(
    tracker: str, block: str, tmp_path: Path
) -> None:
    pytest.importorskip(tracker)
    ended = subprocess.run(
        [sys.executable, "-c", GIVEN + block],
        cwd=tmp_path,
        env={**os.environ, **offline_in(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    # Of the last log entry: by default, `Trainer` logs every 500 steps.
    stored = (tmp_path / "stored").rglob("*")
    assert any(b"train_runtime" in file.read_bytes() for file in stored if file.is_file())


def offline_in(directory: Path) -> dict[str, str]:
    """An environment in which trackers need no network and write below `stored`."""
    stored = directory / "stored"
    for tracker in ("wandb", "swanlab", "clearml"):
        (stored / tracker).mkdir(parents=True)
    (stored / "clearml.conf").write_text("sdk { development { report_use_subprocess: false } }")
    return {
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(stored),
        "TRACKIO_DIR": str(stored / "trackio"),
        "SWANLAB_MODE": "offline",
        "SWANLAB_LOG_DIR": str(stored / "swanlab"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{stored}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(stored / "clearml"),
        "CLEARML_CONFIG_FILE": str(stored / "clearml.conf"),
    }
