"""Shows histograms of parameters and gradients: of whole tensors, also when they are sharded."""

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.observer import Gradients, Observer
from tbtrainer.observers.row_groups import row_names
from tbtrainer.observers.training import Training
from tbtrainer.records import Deferred, HistogramRecord
from tbtrainer.sharding import AllRanks, ParameterTable
from tbtrainer.statistics import (
    Reduction,
    Snapshot,
    SnapshotRows,
    WholeTensors,
    histograms,
    take_snapshot,
)

logger = logging.getLogger(__name__)

_TAGS = {"parameters": tags.PARAMETERS, "gradients": tags.GRADIENTS}


class Histograms(Observer):
    """Shows histograms of `histogram_targets`, at the steps of the snapshot schedule.

    A snapshot costs two collectives under sharding, and none otherwise. On a CPU the training waits
    for the measurement; on an accelerator it does not wait. The histograms are made from the
    snapshot in another thread.
    """

    def __init__(self) -> None:
        self._training: Training | None = None
        self._last_parameters = -1

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Sets the rows, which are the same on every rank, and allocates the buffers."""
        arguments = training.arguments
        self._table: ParameterTable = training.parameters.select(
            arguments.histogram_include, arguments.histogram_exclude
        )
        names = [row.name for row in self._table.rows]
        counts = [row.global_count for row in self._table.rows]
        shared_names = row_names(names, counts, arguments.histogram_detail)
        self._rows = SnapshotRows.of(shared_names, counts, training.device)
        self._reduction: Reduction = WholeTensors()
        if self._table.needs_reduction:
            self._reduction = AllRanks(self._rows)
        # If no tensor is sharded, world rank zero has all of them whole and needs no other rank.
        self._takes_part = training.is_world_process_zero or self._table.needs_reduction
        self._training = training
        self._last_parameters = -1
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> list[Deferred]:
        """Returns the histograms of the gradients, if a snapshot is due."""
        if not self._shows("gradients") or not self._is_due(step):
            return []

        def parts() -> Sequence[Tensor | None]:
            if gradients is None:
                raise RuntimeError("the gradients could not be read")
            return self._table.measurable("gradient", self._table.selected(gradients.parts))

        loss_scale = None if gradients is None else gradients.loss_scale
        return self._taken("gradients", step, parts, loss_scale)

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, if a snapshot is due."""
        return self._parameters(step) if self._is_due(step) else []

    def run_ends(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, unless `step_taken` did at this step."""
        return self._parameters(step) if self._training and self._training.schedule.every else []

    def close(self) -> None:
        """Frees the buffers for collectives."""
        self._training = None
        self._reduction = WholeTensors()

    def _parameters(self, step: int) -> list[Deferred]:
        if not self._shows("parameters") or step == self._last_parameters:
            return []
        self._last_parameters = step
        return self._taken("parameters", step, self._table.parameters, None)

    def _shows(self, target: str) -> bool:
        training = self._training
        return training is not None and target in training.arguments.histogram_targets

    def _is_due(self, step: int) -> bool:
        return self._training is not None and self._training.schedule.is_due(step)

    def _taken(
        self,
        target: str,
        step: int,
        parts: Callable[[], Sequence[Tensor | None]],
        loss_scale: Tensor | None,
    ) -> list[Deferred]:
        """Takes a snapshot, and returns its histograms as deferred records.

        Args:
            target: `"parameters"` or `"gradients"`.
            step: Optimizer step of the snapshot.
            parts: Returns the part of each tensor that this rank counts, in the table's order.
            loss_scale: What the tensors are still multiplied by, a scalar tensor.
        """
        if not self._takes_part or self._training is None:
            return []
        snapshot = take_snapshot(parts, self._rows, self._reduction, loss_scale)
        if not self._training.is_world_process_zero:
            return []
        on_host = snapshot.to_host()
        most = self._training.arguments.histogram_buckets
        return [Deferred(lambda: histogram_records(target, step, on_host, most))]


def histogram_records(
    target: str, step: int, snapshot: Snapshot, max_buckets: int
) -> list[HistogramRecord]:
    """Waits until a snapshot is in main memory, and returns its histograms.

    Args:
        target: `"parameters"` or `"gradients"`.
        step: Optimizer step of the snapshot.
        snapshot: Copied to the host, of the whole tensors.
        max_buckets: The most buckets of a histogram.
    """
    snapshot.wait()
    incomplete = _incomplete_rows(target, step, snapshot)
    return [
        HistogramRecord(_TAGS[target].of(snapshot.rows.names[row]), histogram)
        for row, histogram in enumerate(histograms(snapshot, max_buckets))
        if histogram is not None and row not in incomplete
    ]


def _incomplete_rows(target: str, step: int, snapshot: Snapshot) -> set[int]:
    """Returns the rows of which not every element was counted, and logs why."""
    problems = snapshot.rows.count_mismatches(snapshot.statistics.count.tolist())
    failed_ranks = int(snapshot.failed_ranks)
    if failed_ranks and problems:
        logger.warning(
            "%d of %d histograms of the %s at step %d are left out, because %d rank(s) could "
            "not measure their parts; see the warnings of those ranks.",
            len(problems),
            len(snapshot.rows.names),
            target,
            step,
            failed_ranks,
        )
    elif problems:
        for problem in problems.values():
            logger.error("A histogram is left out because of a bug in tbtrainer: %s", problem)
    return set(problems)
