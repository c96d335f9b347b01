"""A training that is mirrored to a tracker, in a process of its own.

    python -m tests.trackers.mirrored wandb|trackio|none init|sync|callback|ended|none

Begins a run of the tracker with its `init`, with `init` following event files ("sync"), or leaves
it to transformers' callback; "none" mirrors nothing. Trains ten steps in the current directory, the
event files in `runs`, evaluates once more, and ends the run. With "ended" a callback of the user
ends the run at the end of the training, while records are still being made.

Prints as JSON a digest of the weights, and the log history without times; and on the standard error
whether matplotlib was imported when the first step was taken.
"""

import hashlib
import importlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.records import Deferred, Scalar, Text
from tests import tiny

TIMES = ("_runtime", "_per_second")


class Note(Observer):
    """Shows a card with a secret, a value in `Trainer`'s group, and one with an unusual tag."""

    def run_begins(self, step: int, training: Any) -> None:
        figure = sys.modules.get("matplotlib.figure")
        print(f"matplotlib: {hasattr(figure, 'Figure')}", file=sys.stderr)

    def logging_step(self, step: int) -> list[Text | Scalar]:
        return [
            Text("note", "token=hf_MARKER7f3a9cMARKER7f3a9cMARKER7f3"),
            Scalar("train/own", 1),
            Scalar("own/a*b.c d", float("nan")),
        ]


class Slow(Observer):
    """Makes a record that is ready only after the last step, as pictures of a panel are."""

    def evaluation_ended(self, step: int, evaluation: Any) -> list[Deferred]:
        def make() -> list[Scalar]:
            time.sleep(1.0)
            return [Scalar("own/slow", 1.0)]

        return [Deferred(make)]


class EndOfRun(TrainerCallback):
    """Ends the tracker's run at the end of the training."""

    def __init__(self, tracker: str) -> None:
        self._tracker = tracker

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        importlib.import_module(self._tracker).finish()


def digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def begin(tracker: str, way: str) -> Any:
    """Begins a run as a user does; with a callback, the callback begins it."""
    if tracker == "none" or way in ("callback", "none"):
        return None
    package = importlib.import_module(tracker)
    if tracker == "trackio":
        return package.init(project="tbtrainer", embed=False)
    return package.init(project="tbtrainer", sync_tensorboard=way == "sync")


def training(tracker: str, way: str) -> TBTrainer:
    """A trainer that is mirrored to a tracker, with event files in `runs`."""
    args = tiny.arguments(
        TBTrainingArguments,
        Path("out"),
        logging_dir="runs",
        eval_strategy="steps",
        eval_steps=4,
        histogram_steps=5,
        mirror_to=[] if tracker == "none" else [tracker],
        report_to=tracker if way == "callback" else "none",
        run_name="tbtrainer",
    )
    trainer: TBTrainer = tiny.trainer(TBTrainer, args)
    trainer.add_observer(Note())
    return trainer


def report(trainer: TBTrainer) -> None:
    """Prints weights, log history and the next random numbers."""
    logged = [
        {k: v for k, v in entry.items() if not k.endswith(TIMES)}
        for entry in trainer.state.log_history
    ]
    states = [random.random(), torch.rand(1).item()]
    print(json.dumps({"weights": digest(trainer.model), "logged": logged, "random": states}))


def main(tracker: str, way: str) -> None:
    begin(tracker, way)
    trainer = training(tracker, way)
    if way == "ended":
        trainer.add_observer(Slow())
        trainer.add_callback(EndOfRun(tracker))
    trainer.train()
    if way != "ended":
        trainer.evaluate()
    trainer.writer.add_scalar("users/own", 1.0, 10)
    trainer.writer.flush()
    report(trainer)
    if tracker == "wandb":
        wandb = importlib.import_module("wandb")
        wandb.finish()
        wandb.teardown()
    elif tracker == "trackio" and way != "ended":
        importlib.import_module("trackio").finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
