"""SwanLab: `swanlab.sync_tensorboard_torch()`, offline."""

from collections.abc import Callable
from pathlib import Path

import swanlab
from swanlab.proto.swanlab.record.v1 import record_pb2
from swanlab.sdk.internal.core_python.store import DataStoreReader


def recorded_scalars(train: Callable[[], None]) -> list[tuple[str, int, float]]:
    """Trains inside a run and reads the records of all runs back.

    SwanLab ends its run when the writer is closed and begins another with the next writer.
    """
    swanlab.init(project="tbtrainer", mode="offline", logdir="swanlog")
    swanlab.sync_tensorboard_torch()
    train()
    if swanlab.has_run():
        swanlab.finish()
    scalars = []
    for file in Path().rglob("run-*.swanlab"):
        reader = DataStoreReader()
        reader.open(file)
        for data in reader:
            scalar = record_pb2.Record.FromString(data).scalar
            if scalar.key:
                scalars.append((scalar.key, scalar.step, scalar.value.number))
    return scalars
