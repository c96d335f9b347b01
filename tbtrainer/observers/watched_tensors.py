"""Takes snapshots of the tensors of a training, and makes histograms of them."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.row_groups import row_names
from tbtrainer.observers.training import Training
from tbtrainer.records import Deferred, HistogramRecord
from tbtrainer.sharding import AllRanks, ParameterTable
from tbtrainer.statistics import (
    PreviousExtremes,
    Reduction,
    Snapshot,
    SnapshotRows,
    Source,
    WholeTensors,
    histograms,
    prepare,
    take_snapshot,
)

logger = logging.getLogger(__name__)

_TAGS = {"parameters": tags.PARAMETERS, "gradients": tags.GRADIENTS, "updates": tags.UPDATES}


@dataclass(frozen=True)
class WatchedTensors:
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
    def of(
        cls, training: Training, targets: Collection[str], sums_beside: bool = False
    ) -> "WatchedTensors":
        """Chooses the tensors, as the arguments of the training say.

        Args:
            training: What is known of it.
            targets: The targets that will be shown.
            sums_beside: Whether the snapshots have numbers `beside`.
        """
        arguments = training.arguments
        table = training.parameters.select(arguments.histogram_include, arguments.histogram_exclude)
        names = [row.name for row in table.rows]
        counts = [row.global_count for row in table.rows]
        shared_names = row_names(names, counts, arguments.histogram_detail)
        rows = SnapshotRows.of(shared_names, counts, training.device)
        is_sharded = table.needs_reduction
        reduction = AllRanks(rows, sums_beside) if is_sharded else WholeTensors()
        takes_part = training.is_world_process_zero or is_sharded
        previous = {target: PreviousExtremes(rows) for target in targets if takes_part}
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

    def take(
        self,
        target: str,
        parts: Callable[[], Sequence[Tensor | None] | Source],
        loss_scale: Tensor | None = None,
        beside: Callable[[], Tensor] | None = None,
    ) -> Snapshot | None:
        """Takes a snapshot.

        Args:
            target: What is shown, such as `"parameters"`.
            parts: Returns the part of each tensor that this rank counts, in the table's order.
            loss_scale: What the tensors are still multiplied by, a scalar tensor.
            beside: See `take_snapshot`.

        Returns:
            The snapshot of the whole tensors, on the device; `None` if this rank has no part in it.
        """
        if not self.takes_part:
            return None
        return take_snapshot(
            parts,
            self.rows,
            self.reduction,
            loss_scale,
            previous=self.previous[target],
            beside=beside,
        )

    def deferred(self, target: str, step: int, snapshot: Snapshot | None) -> list[Deferred]:
        """Returns the histograms of a snapshot as a deferred record, on world rank zero.

        Args:
            target: What is shown, such as `"parameters"`.
            step: Optimizer step of the snapshot.
            snapshot: As `take` returned it.
        """
        if snapshot is None or not self.training.is_world_process_zero:
            return []
        on_host = snapshot.to_host()
        most = self.training.arguments.histogram_buckets
        return [Deferred(lambda: histogram_records(target, step, on_host, most))]


def histogram_records(
    target: str, step: int, snapshot: Snapshot, max_buckets: int
) -> list[HistogramRecord]:
    """Waits until a snapshot is in main memory, and returns its histograms.

    Args:
        target: What is shown, such as `"parameters"`.
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
