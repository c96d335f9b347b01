"""A training that is mirrored to a tracker, in a process of its own.

    python -m tests.trackers.mirrored wandb|trackio|none init|sync|callback|none

Begins a run of the tracker with its `init`, with `init` following event files ("sync"), or leaves
it to transformers' callback; "none" mirrors nothing. Trains ten steps in the current directory, the
event files in `runs`, evaluates once more, and ends the run.

Prints as JSON a digest of the weights, and the log history without times.
"""

import hashlib
import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from tbtrainer import Observer, TBTrainer, TBTrainingArguments
from tbtrainer.records import Scalar, Text
from tests import tiny

TIMES = ("_runtime", "_per_second")


class Note(Observer):
    """Shows a card with a secret, a value in `Trainer`'s group, and one with an unusual tag."""

    def logging_step(self, step: int) -> list[Text | Scalar]:
        return [
            Text("note", "token=hf_MARKER7f3a9cMARKER7f3a9cMARKER7f3"),
            Scalar("train/own", 1),
            Scalar("own/a*b.c d", float("nan")),
        ]


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


def main(tracker: str, way: str) -> None:
    begin(tracker, way)
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
    trainer = tiny.trainer(TBTrainer, args)
    trainer.add_observer(Note())
    trainer.train()
    trainer.evaluate()
    trainer.writer.add_scalar("users/own", 1.0, 10)
    trainer.writer.flush()
    logged = [
        {k: v for k, v in entry.items() if not k.endswith(TIMES)}
        for entry in trainer.state.log_history
    ]
    states = [random.random(), torch.rand(1).item()]
    if tracker == "wandb":
        wandb = importlib.import_module("wandb")
        wandb.finish()
        wandb.teardown()
    elif tracker == "trackio":
        importlib.import_module("trackio").finish()
    print(json.dumps({"weights": digest(trainer.model), "logged": logged, "random": states}))


if __name__ == "__main__":
    main(*sys.argv[1:])
