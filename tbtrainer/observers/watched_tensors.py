"""Takes snapshots of tensors of a training, and has records made of them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tbtrainer.observers.snapshot_records import (
    SnapshotReader,
    histogram_records,
    read_by_all,
)
from tbtrainer.observers.training import Training
from tbtrainer.records import Deferred
from tbtrainer.sharding import AllRanks
from tbtrainer.statistics import (
    PreviousExtremes,
    Reduction,
    Snapshot,
    SnapshotRows,
    Source,
    WholeTensors,
    prepare,
    take_snapshot,
)


@dataclass(frozen=True)
class WatchedTensors:
    """Tensors of a training that are shown at the steps of its snapshot schedule.

    Attributes:
        training: What is known of it.
        rows: The rows of a snapshot, equal on every rank: one tensor each, or several.
        reduction: What puts the parts of all ranks together.
        previous: The extremes of the previous snapshot of each target.
        takes_part: Whether this rank measures. If every rank holds the same tensors, world rank
            zero measures them and needs no other rank. No rank does if there are no tensors.
    """

    training: Training
    rows: SnapshotRows
    reduction: Reduction
    previous: dict[str, PreviousExtremes]
    takes_part: bool

    @classmethod
    def of(
        cls,
        training: Training,
        targets: Collection[str],
        names: Sequence[str],
        counts: Sequence[int | None],
        is_sharded: bool,
        sums_beside: bool = False,
    ) -> "WatchedTensors":
        """Sets the rows and allocates the buffers. Does not communicate.

        Args:
            training: What is known of it.
            targets: The targets that will be shown with these rows.
            names: Name of the row of each tensor. Tensors of the same name share a row. Equal on
                every rank.
            counts: Elements of each whole tensor, on all ranks together; `None` if not known
                beforehand. Equal on every rank.
            is_sharded: Whether ranks hold different elements, so that each snapshot is combined
                over all ranks. Equal on every rank.
            sums_beside: Whether the snapshots have numbers `beside`.
        """
        rows = SnapshotRows.of(names, counts, training.device)
        reduction = AllRanks(rows, sums_beside) if is_sharded else WholeTensors()
        takes_part = bool(names) and (training.is_world_process_zero or is_sharded)
        previous = {target: PreviousExtremes(rows) for target in targets if takes_part}
        return cls(training, rows, reduction, previous, takes_part)

    def prepare(self, dtypes: Collection[torch.dtype]) -> None:
        """Compiles the kernels for the snapshots of this rank, if it takes any.

        Args:
            dtypes: Of the tensors.
        """
        if self.takes_part and self.training.schedule.every > 0:
            prepare(set(dtypes), self.training.device)

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
            parts: Returns the part of each tensor that this rank counts, in the order of the names.
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
        """Returns the records of a snapshot, which are made later, on world rank zero.

        They are its histograms, and what `Training.snapshot_readers` return.

        Args:
            target: What is shown, such as `"parameters"`.
            step: Optimizer step of the snapshot.
            snapshot: As `take` returned it.
        """
        if snapshot is None or not self.training.is_world_process_zero:
            return []
        on_host = snapshot.to_host()
        most = self.training.arguments.histogram_buckets
        own: SnapshotReader = partial(histogram_records, max_buckets=most)
        readers = [own, *self.training.snapshot_readers]
        return [Deferred(partial(read_by_all, readers, target, step, on_host))]
