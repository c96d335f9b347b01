"""A card and the duration of each checkpoint."""

import os
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tbtrainer import tags
from tbtrainer.observers.facts import Checkpoint
from tbtrainer.observers.observer import Observer
from tbtrainer.records import Deferred, Records, Scalar, Text
from tbtrainer.redaction import redacted_name, redacted_text


class Checkpoints(Observer):
    """Shows the seconds that saving each checkpoint took, and a card with path, size and metric."""

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> Records:
        """Returns the seconds, and the card deferred, because it needs the size of every file."""
        if not os.path.isdir(checkpoint.path):
            return []  # The trainer saved elsewhere, or another node has the files.
        return [
            Scalar(tags.CHECKPOINT_SECONDS.name, checkpoint.seconds),
            Deferred(lambda: [Text(tags.CHECKPOINT_SAVED.name, checkpoint_card(step, checkpoint))]),
        ]


def checkpoint_card(step: int, checkpoint: Checkpoint) -> str:
    """Returns the facts of a checkpoint as a Markdown table, without secrets."""
    rows = {
        "path": f"`{redacted_text(checkpoint.path)}`",
        "step": f"{step:,}",
        "size": f"{bytes_of(checkpoint.path) / 2**20:,.1f} MiB",
        "saved in": f"{checkpoint.seconds:.2f} s",
    }
    if checkpoint.metric is not None:
        name, value = checkpoint.metric
        rows[redacted_name(name)] = f"{value:.6g}"
        rows["best so far"] = "yes" if checkpoint.is_best else "no"
    card = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"| checkpoint | |\n|---|---|\n{card}"


def bytes_of(directory: str) -> int:
    """Returns the bytes of all files in `directory`. Files that are removed meanwhile count 0."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(folder, name))
            except OSError:  # `Trainer` may remove the checkpoint meanwhile.
                continue
    return total


def checkpoint_directory(trainer: Any, trial: Any) -> str:
    """Returns the directory in which a trainer saves the checkpoint of its current step."""
    folder = f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    return os.path.join(trainer._get_output_dir(trial), folder)


def saved_checkpoint(trainer: Any, path: str, seconds: float) -> Checkpoint:
    """Describes a checkpoint that a trainer has just saved.

    Args:
        trainer: A `Trainer`.
        path: The checkpoint's directory.
        seconds: The time that saving it took.
    """
    is_best = trainer.state.best_model_checkpoint == path
    return Checkpoint(path, seconds, _metric_at(trainer, trainer.state.global_step), is_best)


def _metric_at(trainer: Any, step: int) -> tuple[str, float] | None:
    """Returns name and value of `metric_for_best_model` in the evaluation of a step, if any."""
    name = trainer.args.metric_for_best_model
    if name is None:
        return None
    key = name if name.startswith("eval_") else f"eval_{name}"
    for entry in reversed(trainer.state.log_history):
        value = entry.get(key)
        if entry.get("step") == step and isinstance(value, int | float):
            return key, float(value)
    return None
