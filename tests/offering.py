"""Records that tests offer to a writer."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from tbtrainer.run import RunWriter
from tests.faults.disk import wait_until


def offer(writer: RunWriter | SummaryWriter, steps: range, tag: str = "value") -> None:
    """Adds a scalar at each step, and flushes."""
    for step in steps:
        writer.add_scalar(tag, step, step)
    writer.flush()


def written(directory: Path, steps: range) -> RunWriter:
    """A writer that is open, with steps that are in its file."""
    writer = RunWriter(str(directory))
    offer(writer, steps)
    wait_until(lambda: writer.counters.pending == 0)
    return writer
