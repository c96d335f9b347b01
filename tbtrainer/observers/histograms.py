"""Shows histograms of parameters and gradients: of whole tensors, also when they are sharded."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.row_groups import row_names
from tbtrainer.observers.training import Training
from tbtrainer.records import Deferred, HistogramRecord
from tbtrainer.sharding import AllRanks, ParameterTable
from tbtrainer.statistics import (
    PreviousExtremes,
    Reduction,
    Snapshot,
    SnapshotRows,
    WholeTensors,
    histograms,
    prepare,
    take_snapshot,
)

logger = logging.getLogger(__name__)

_TAGS = {"parameters": tags.PARAMETERS, "gradients": tags.GRADIENTS}


class Histograms(Observer):
    """Shows histograms of `histogram_targets`, at the steps of the snapshot schedule.

    A snapshot costs three collectives under sharding, up to 18 in models of many parameters, and
    none otherwise. On a CPU the training waits for the measurement; on an accelerator it does not
    wait. The histograms are made from the snapshot in another thread.
    """

    def __init__(self) -> None:
        # `None` outside of a training: the rows hold its parameters.
        self._watched: _Watched | None = None
        self._last_parameters = -1

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Sets the rows, which are the same on every rank, and allocates the buffers.

        Kernels are compiled here, so that the first snapshot does not wait for the compiler.
        """
        self._watched = _Watched.of(training)
        self._watched.prepare()
        self._last_parameters = -1
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> list[Deferred]:
        """Returns the histograms of the gradients, if a snapshot is due."""
        watched = self._watched
        if watched is None or not watched.shows("gradients") or not watched.is_due(step):
            return []
        table = watched.table

        def parts() -> Sequence[Tensor | None]:
            if gradients is None:
                raise RuntimeError("the gradients could not be read")
            return table.measurable("gradient", table.selected(gradients.parts))

        loss_scale = None if gradients is None else gradients.loss_scale
        return watched.taken("gradients", step, parts, loss_scale)

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, if a snapshot is due."""
        is_due = self._watched is not None and self._watched.is_due(step)
        return self._parameters(step) if is_due else []

    def run_ends(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, unless `step_taken` did at this step."""
        takes_any = self._watched is not None and self._watched.training.schedule.every > 0
        return self._parameters(step) if takes_any else []

    def close(self) -> None:
        """Releases the parameters, and the buffers for collectives."""
        self._watched = None

    def _parameters(self, step: int) -> list[Deferred]:
        watched = self._watched
        if watched is None or not watched.shows("parameters") or step == self._last_parameters:
            return []
        self._last_parameters = step
        return watched.taken("parameters", step, watched.table.parameters, None)


@dataclass(frozen=True)
class _Watched:
    """The tensors of a training that are shown.

    Attributes:
        training: What is known of it.
        table: The parameters chosen by name.
        rows: The rows of a snapshot: one tensor each, or several.
        reduction: What puts the parts of all ranks together.
        previous: The extremes of the previous snapshot of each target.
        takes_part: Whether this rank measures. If no tensor is sharded, world rank zero has all of
            them whole and needs no other rank.
    """

    training: Training
    table: ParameterTable
    rows: SnapshotRows
    reduction: Reduction
    previous: dict[str, PreviousExtremes]
    takes_part: bool

    @classmethod
    def of(cls, training: Training) -> "_Watched":
        """Chooses the tensors, as the arguments of the training say."""
        arguments = training.arguments
        table = training.parameters.select(arguments.histogram_include, arguments.histogram_exclude)
        names = [row.name for row in table.rows]
        counts = [row.global_count for row in table.rows]
        shared_names = row_names(names, counts, arguments.histogram_detail)
        rows = SnapshotRows.of(shared_names, counts, training.device)
        is_sharded = table.needs_reduction
        reduction = AllRanks(rows) if is_sharded else WholeTensors()
        takes_part = training.is_world_process_zero or is_sharded
        targets = arguments.histogram_targets if takes_part else []
        previous = {target: PreviousExtremes(rows) for target in targets}
        return cls(training, table, rows, reduction, previous, takes_part)

    def shows(self, target: str) -> bool:
        """Returns whether a target was chosen."""
        return target in self.training.arguments.histogram_targets

    def prepare(self) -> None:
        """Compiles the kernels for the snapshots of this rank, if it takes any."""
        if self.takes_part and self.training.schedule.every > 0:
            # DeepSpeed may keep the gradients of other dtypes in float32.
            dtypes = {torch.float32, *(row.parameter.dtype for row in self.table.rows)}
            prepare(dtypes, self.training.device)

    def is_due(self, step: int) -> bool:
        """Returns whether a snapshot is due at a step: the same on every rank."""
        return self.training.schedule.is_due(step)

    def taken(
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
        if not self.takes_part:
            return []
        snapshot = take_snapshot(
            parts, self.rows, self.reduction, loss_scale, previous=self.previous[target]
        )
        if not self.training.is_world_process_zero:
            return []
        on_host = snapshot.to_host()
        most = self.training.arguments.histogram_buckets
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
