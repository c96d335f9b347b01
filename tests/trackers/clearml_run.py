"""ClearML: `Task.init` with its TensorBoard binding, offline."""

import json
from collections.abc import Callable
from pathlib import Path

from clearml import Task


def recorded_scalars(train: Callable[[], None]) -> list[tuple[str, int, float]]:
    """Trains inside a task and reads the task's offline session back."""
    Task.set_offline(True)
    task = Task.init(
        "tbtrainer",
        "training",
        auto_connect_frameworks={"tensorboard": True, "pytorch": False},
        auto_connect_arg_parser=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    train()
    session = Path(task.get_offline_mode_folder())
    task.close()
    return [
        (f"{event['metric']}/{event['variant']}", event["iter"], event["value"])
        for line in (session / "metrics.jsonl").read_text().splitlines()
        for event in json.loads(line)
        if event["type"] == "training_stats_scalar"
    ]
