"""The runs of docs/command-line.md: two trainings of a classifier, and a damaged one."""

import math
import os
from pathlib import Path

from tests.event_runs import BEGIN, NO_PROCESS, scalar, session_end, session_start, text, write

MODEL = """\
| Model |  |
| --- | --- |
| class | `BertForSequenceClassification` |
| name | `all-MiniLM-L6-v2` |
| parameters | 22,713,986 |
| trained | 22,713,986 (100.00%) |
| dtypes | float32 |
| devices | cpu |
"""
ARGUMENTS = """\
| Differs from the default | value | default |
| --- | --- | --- |
| `learning_rate` | `{rate}` | `5e-05` |
| `num_train_epochs` | `1` | `3.0` |
"""


def make_runs(directory: Path) -> None:
    """Makes `runs/base`, `runs/new` and `damaged` in a directory."""
    write(directory / "runs" / "base", training(2e-5, 0.30), BEGIN)
    write(directory / "runs" / "new", training(5e-5, 0.34), BEGIN)
    file = write(directory / "damaged", training(2e-5, 0.30), BEGIN, NO_PROCESS + 1)
    os.truncate(file, file.stat().st_size - 30)


def training(rate: float, final_loss: float) -> list[bytes]:
    """The records of a training of 500 steps that logs every 25 and evaluates every 100."""
    records = [
        session_start(BEGIN, {"learning_rate": rate, "num_train_epochs": 1}),
        text("run/model", MODEL),
        text("run/arguments", ARGUMENTS.format(rate=rate)),
        text("args", f'{{"learning_rate": {rate}, "num_train_epochs": 1}}'),
    ]
    for step in range(25, 501, 25):
        moment = BEGIN + 0.9 * step
        loss = final_loss + 0.4 * math.exp(-step / 120) + 0.01 * math.cos(step)
        values = {
            "train/loss": loss,
            "train/learning_rate": rate * (1 - step / 500),
            "health/nonfinite_losses": 0.0,
            "throughput/step_seconds": 0.87,
            "throughput/samples_per_second": 18.4,
        }
        if step % 100 == 0:
            values["eval/loss"] = final_loss + 0.3 * math.exp(-step / 100) + step / 8000
            values["eval/accuracy"] = 0.9 - final_loss / 5 - 0.3 * math.exp(-step / 100)
        records += [scalar(tag, step, value, moment) for tag, value in values.items()]
    waiting = "**Waiting for data 22 % of the time**: raise `dataloader_num_workers` (now 0)."
    return [
        *records,
        text("throughput/verdict", waiting, 500, BEGIN + 450),
        session_end(1, BEGIN + 455),
    ]
