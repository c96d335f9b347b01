"""Snapshots of parameters or gradients, from the shards of every rank to the event file."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.row_groups import row_names
from tbtrainer.run import RunWriter
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

# Snapshots that wait to be written. One more makes the training wait for the oldest, so that a
# snapshot at every step of a fast training cannot fill the memory.
_BACKLOG = 4


class HistogramRecorder:
    """Measures the tensors of a table and writes their histograms from a thread of its own.

    Args:
        table: The parameters shown, and which part of each this rank counts.
        writer: Takes the histograms; `None` on every rank but world rank zero.
        max_buckets: The most buckets of a histogram.
        device: Where the statistics are kept until they go to main memory.
        isolation: What happens to an error.
        detail: Which tensors share a histogram; see `row_names`.
    """

    def __init__(
        self,
        table: ParameterTable,
        writer: RunWriter | None,
        max_buckets: int,
        device: torch.device,
        isolation: Isolation,
        detail: str = "auto",
    ) -> None:
        self._table = table
        self._writer = writer
        self._max_buckets = max_buckets
        self._isolation = isolation
        names = [row.name for row in table.rows]
        counts = [row.global_count for row in table.rows]
        self._rows = SnapshotRows.of(row_names(names, counts, detail), counts, device)
        self._reduction: Reduction = (
            AllRanks(self._rows) if table.needs_reduction else WholeTensors()
        )
        self._takes_part = writer is not None or table.needs_reduction
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tbtrainer-histograms")
        self._pending: deque[Future[None]] = deque()

    def record(
        self,
        target: str,
        step: int,
        parts: Callable[[], Sequence[Tensor | None]],
        loss_scale: Tensor | None = None,
    ) -> None:
        """Takes a snapshot: two collectives under sharding, none otherwise.

        Call it on every rank at the same steps. It returns before the histograms are written.

        Args:
            target: First part of the tags, `"parameters"` or `"gradients"`.
            step: Optimizer step the snapshot is shown at.
            parts: Gives the part of each tensor that this rank counts, in the table's order.
            loss_scale: What the tensors are still multiplied by, a scalar tensor.
        """
        if not self._takes_part:
            return
        with self._isolation.guard(f"take a snapshot of the {target}"):
            snapshot = take_snapshot(parts, self._rows, self._reduction, loss_scale)
            if self._writer is not None:
                on_host = snapshot.to_host()
                self._pending.append(self._thread.submit(self._write, target, step, on_host))
        while len(self._pending) > _BACKLOG:
            self._pending.popleft().result()

    def drain(self) -> None:
        """Waits until every snapshot taken so far has reached the writer."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits as `drain` does, and ends the thread."""
        self.drain()
        self._thread.shutdown()

    def _write(self, target: str, step: int, snapshot: Snapshot) -> None:
        """Runs in the thread."""
        with self._isolation.guard(f"write the histograms of the {target}"):
            snapshot.wait()
            incomplete = self._incomplete_rows(target, step, snapshot)
            for row, histogram in enumerate(histograms(snapshot, self._max_buckets)):
                if histogram is None or row in incomplete or self._writer is None:
                    continue
                tag = f"{target}/{self._rows.names[row]}"
                self._writer.add_histogram_raw(tag, **histogram.raw_fields(), global_step=step)

    def _incomplete_rows(self, target: str, step: int, snapshot: Snapshot) -> set[int]:
        """Rows of which not every element was counted, each reported."""
        problems = self._rows.count_mismatches(snapshot.statistics.count.tolist())
        failed_ranks = int(snapshot.failed_ranks)
        if failed_ranks and problems:
            logger.warning(
                "%d of %d histograms of the %s at step %d are left out, because %d rank(s) could "
                "not measure their parts; see the warnings of those ranks.",
                len(problems),
                len(self._rows.names),
                target,
                step,
                failed_ranks,
            )
        elif problems:
            for problem in problems.values():
                logger.error("tbtrainer has a bug, and leaves a histogram out: %s", problem)
        return set(problems)
