"""Checkpoints on the timeline of the run."""

import os

from tbtrainer.run import RunWriter, SilentWriter


def bytes_of(directory: str) -> int:
    """Returns the bytes of all files under `directory`."""
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(directory)
        for name in names
    )


def show_checkpoint(
    writer: RunWriter | SilentWriter,
    checkpoint: str,
    step: int,
    seconds: float,
    metric: tuple[str, float] | None,
    is_best: bool,
) -> None:
    """Marks a checkpoint on the run's timeline: two scalars and a card.

    Args:
        writer: The run.
        checkpoint: Its directory.
        step: Optimizer steps taken.
        seconds: What saving took on this rank.
        metric: Name and value of `metric_for_best_model` at this step, if known.
        is_best: Whether it is the best so far.
    """
    size = bytes_of(checkpoint)
    writer.add_scalar("checkpoint/seconds", seconds, step)
    writer.add_scalar("checkpoint/bytes", size, step)
    rows = {
        "path": f"`{checkpoint}`",
        "step": f"{step:,}",
        "size": f"{size / 2**20:,.1f} MiB",
        "saved in": f"{seconds:.2f} s",
    }
    if metric is not None:
        rows[metric[0]] = f"{metric[1]:.6g}"
        rows["best so far"] = "yes" if is_best else "no"
    card = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    writer.add_text("checkpoint/saved", f"| checkpoint | |\n|---|---|\n{card}", step)
