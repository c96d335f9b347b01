"""The parameters of a training that are shown: which ones, and which of them share a row."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from tbtrainer.observers.row_groups import row_names
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_tensors import WatchedTensors
from tbtrainer.sharding import ParameterTable


@dataclass(frozen=True)
class WatchedParameters:
    """The parameters that are shown, or tensors that are divided like them, such as gradients.

    Attributes:
        table: The parameters chosen by name.
        tensors: Takes their snapshots. One tensor per row of the table.
    """

    table: ParameterTable
    tensors: WatchedTensors

    @classmethod
    def of(
        cls, training: Training, targets: Collection[str], sums_beside: bool = False
    ) -> "WatchedParameters":
        """Chooses the parameters, as the arguments of the training say. Does not communicate.

        Args:
            training: What is known of it.
            targets: The targets that will be shown.
            sums_beside: Whether the snapshots have numbers `beside`.
        """
        arguments = training.arguments
        table = training.parameters.select(arguments.histogram_include, arguments.histogram_exclude)
        counts = [row.global_count for row in table.rows]
        names = row_names([row.name for row in table.rows], counts, arguments.histogram_detail)
        is_sharded = table.needs_reduction
        tensors = WatchedTensors.of(training, targets, names, counts, is_sharded, sums_beside)
        return cls(table, tensors)

    def prepare(self) -> None:
        """Compiles the kernels for the snapshots of this rank, if it takes any."""
        # DeepSpeed may keep the gradients of other dtypes in float32.
        self.tensors.prepare({torch.float32, *(row.parameter.dtype for row in self.table.rows)})
