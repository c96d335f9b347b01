"""Snapshots of given tensors, taken by the observer of a training, written to a given writer."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from tbtrainer import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.histograms import Histograms
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.optimizer_state import OptimizerState
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.observers.training import Training
from tbtrainer.observers.updates import Updates
from tbtrainer.records import HistogramRecord, Record
from tbtrainer.run import RunWriter
from tbtrainer.sharding import ParameterTable


class Recorder:
    """Takes a snapshot at every step that it is given.

    Args:
        table: The parameters, and which part of each this rank counts.
        writer: Takes the histograms; `None` on every rank but world rank zero.
        device: Where the statistics are kept.
        action: What happens to an error: `"raise"` or `"warn"`.
        optimizer: Whose states are shown, if they are a target.
        arguments: Fields of `TensorBoardArguments`.
    """

    def __init__(
        self,
        table: ParameterTable,
        writer: RunWriter | None,
        device: torch.device,
        action: str = "raise",
        optimizer: Any = None,
        **arguments: Any,
    ) -> None:
        self.writer = writer
        histograms = Histograms()
        self._observers = ObserverSet(
            [histograms, Updates(histograms), OptimizerState()],
            self._write,
            writes=writer is not None,
            isolation=Isolation(action),
            clock=Clock(),
        )
        training = Training(
            model=nn.Module(),
            unwrapped_model=nn.Module(),
            optimizer=optimizer,
            accelerator=None,
            training_arguments=TrainingArguments(output_dir="unused", report_to="none"),
            arguments=TensorBoardArguments(**arguments),
            parameters=table,
            schedule=SnapshotSchedule(every=1, last=2**40),
            device=device,
            max_grad_norm=0.0,
            is_world_process_zero=writer is not None,
        )
        self._observers.run_begins(0, training)

    def gradients(
        self, step: int, parts: Sequence[Tensor | None], loss_scale: Tensor | None = None
    ) -> None:
        """Takes a snapshot of gradients; each step once."""
        self._observers.gradients_ready(step, Gradients(parts, loss_scale))

    def parameters(self, step: int) -> None:
        """Takes a snapshot of the parameters; each step once."""
        self._observers.step_taken(step)

    def drain(self) -> None:
        """Waits until every snapshot has reached the writer."""
        self._observers.drain()

    def close(self) -> None:
        """Drains, and ends the thread."""
        self._observers.close()

    def _write(self, records: Iterable[Record], step: int) -> None:
        for record in records:
            if self.writer is not None and isinstance(record, HistogramRecord):
                fields = record.histogram.raw_fields()
                self.writer.add_histogram_raw(record.tag, **fields, global_step=step)
