"""A training that a tracker follows through TensorBoard, in a process of its own.

    python -m tests.trackers.training TRACKER stock|tbtrainer

Runs in the current directory, without network. Prints as JSON the scalars that the tracker recorded
and those of the event files, each as `[tag, step, value]`.

Trackers replace names and methods in torch for the rest of the process, so each training has its
own process.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from transformers import Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests import tiny
from tests.events import event_files, scalars


def train_and_evaluate(kind: str) -> None:
    """Trains ten steps with evaluations at 4, 8 and 10, and evaluates once more at the end.

    Stock does not: it would make a second writer in the directory. wandb 0.31 then reads the
    directory twice at the same time and may record nothing.
    """
    os.environ["TENSORBOARD_LOGGING_DIR"] = "runs"
    stock = kind == "stock"
    args = tiny.arguments(
        TrainingArguments if stock else TBTrainingArguments,
        Path("out"),
        eval_strategy="steps",
        eval_steps=4,
        report_to="tensorboard" if stock else "none",
    )
    trainer = tiny.trainer(Trainer if stock else TBTrainer, args)
    trainer.train()
    if not stock:
        trainer.evaluate()


if __name__ == "__main__":
    tracker = importlib.import_module(f"tests.trackers.{sys.argv[1]}_run")
    recorded = tracker.recorded_scalars(lambda: train_and_evaluate(sys.argv[2]))
    written = [scalar for file in event_files(Path("runs")) for scalar in scalars(file)]
    print(json.dumps({"recorded": recorded, "written": written}))
