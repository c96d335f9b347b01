"""Weights & Biases: `wandb.init(sync_tensorboard=True)`, offline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb

from tests.trackers.wandb_file import history


def recorded_scalars(train: Callable[[], None]) -> list[tuple[str, int, float]]:
    """Trains inside a run and reads the run's history back."""
    run = wandb.init(project="tbtrainer", mode="offline", sync_tensorboard=True)
    train()
    run.finish()
    wandb.teardown()
    # wandb puts the directory in front, relative to the current one.
    return [
        (key.removeprefix("runs/"), row["global_step"], value)
        for row in history(Path("wandb"))
        for key, value in row.items()
        if isinstance(value, int | float) and key != "global_step" and not _is_extra(key, row)
    ]


def _is_extra(key: str, row: dict[str, Any]) -> bool:
    """Whether a number is wandb's own, or a part of an image or a table, such as its height."""
    return key.startswith("_") or f"{key.rpartition('/')[0]}/_type" in row
