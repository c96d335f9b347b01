"""A snapshot of parameters or gradients, from the shards of every rank to the event file."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.run import RunWriter
from tbtrainer.sharding import (
    ParameterTable,
    count_buffer,
    count_mismatches,
    reduce_counts,
    reduce_extremes,
)
from tbtrainer.statistics import (
    LINEAR_BUCKET_COUNT,
    LINEAR_MAX_ELEMENTS,
    HostSnapshot,
    TensorStatistics,
    histograms,
    measure,
    measure_linear,
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
        device: Where the statistics are kept until they go to the host.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        table: ParameterTable,
        writer: RunWriter | None,
        max_buckets: int,
        device: torch.device,
        isolation: Isolation,
    ) -> None:
        self._table = table
        self._writer = writer
        self._max_buckets = max_buckets
        self._device = device
        self._isolation = isolation
        # Decided by the global size alone: every rank decides alike, and nobody asks the device.
        self._linear_rows = [
            index
            for index, row in enumerate(table.rows)
            if row.global_count is not None and row.global_count <= LINEAR_MAX_ELEMENTS
        ]
        # What a rank contributes that could not measure, and where counts are put together: made
        # now, because a rank without memory left has to reach the collectives all the same.
        self._nothing: tuple[TensorStatistics, Tensor] | None = None
        self._buffer: Tensor | None = None
        if table.needs_reduction:
            self._nothing = self._empty()
            self._buffer = count_buffer(*self._nothing)
        small = torch.tensor(self._linear_rows, dtype=torch.int64)
        self._small = small.to(device, non_blocking=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tbtrainer-histograms")
        self._pending: deque[Future[None]] = deque()

    def record(
        self,
        target: str,
        step: int,
        parts: Callable[[], Sequence[Tensor | None]],
        divisor: Tensor | None = None,
    ) -> None:
        """Takes a snapshot: two collectives under sharding, none otherwise.

        Call it on every rank at the same steps. It returns before the histograms are written.

        Args:
            target: First part of the tags, `"parameters"` or `"gradients"`.
            step: Optimizer step the snapshot is shown at.
            parts: Gives the part of each tensor that this rank counts, in the table's order.
            divisor: The loss scale the tensors are still multiplied by, a scalar tensor.
        """
        if self._writer is None and not self._table.needs_reduction:
            return
        statistics, linear = self._measured(parts, divisor)
        if self._writer is not None:
            snapshot = HostSnapshot.copied(statistics, linear)
            self._pending.append(self._thread.submit(self._write, target, step, snapshot))
            while len(self._pending) > _BACKLOG:
                self._pending.popleft().result()

    def drain(self) -> None:
        """Waits until every snapshot taken so far has reached the writer."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Drains, and ends the thread."""
        self.drain()
        self._thread.shutdown()

    def _empty(self) -> tuple[TensorStatistics, Tensor]:
        """Statistics, and counts of the linear pass, of tensors without an element."""
        shape = (len(self._linear_rows), LINEAR_BUCKET_COUNT)
        linear = torch.zeros(shape, dtype=torch.int64, device=self._device)
        return TensorStatistics.empty(len(self._table.rows), self._device), linear

    @torch.no_grad()
    def _measured(
        self, parts: Callable[[], Sequence[Tensor | None]], divisor: Tensor | None
    ) -> tuple[TensorStatistics, Tensor]:
        """Statistics of the whole tensors. A rank that fails adds nothing, but takes part."""
        tensors: Sequence[Tensor | None] | None = None
        statistics = linear = None
        with self._isolation.guard("measure the tensors of a snapshot"):
            tensors = parts()
            statistics = measure(tensors, self._device, divisor)
        nothing, no_linear = self._nothing or self._empty()
        statistics = statistics or nothing
        minimum, maximum = statistics.minimum, statistics.maximum
        if self._table.needs_reduction:
            minimum, maximum = reduce_extremes(minimum, maximum, None)
        with self._isolation.guard("measure the small tensors of a snapshot"):
            if tensors is not None:
                chosen = [tensors[row] for row in self._linear_rows]
                ends = minimum[self._small], maximum[self._small]
                linear = measure_linear(chosen, *ends, divisor)
        linear = no_linear if linear is None else linear
        statistics = statistics.with_extremes(minimum, maximum)
        if self._table.needs_reduction:
            return reduce_counts(statistics, linear, None, self._buffer)
        return statistics, linear

    def _write(self, target: str, step: int, snapshot: HostSnapshot) -> None:
        """Runs in the thread."""
        with self._isolation.guard(f"write the histograms of the {target}"):
            statistics, linear = snapshot.arrived()
            wrong = set()
            for index, problem in count_mismatches(self._table, statistics.count):
                wrong.add(index)
                logger.error("tbtrainer has a bug, and leaves a histogram out: %s", problem)
            rows = histograms(statistics, linear, self._linear_rows, self._max_buckets)
            for index, (row, histogram) in enumerate(zip(self._table.rows, rows, strict=True)):
                if histogram is None or index in wrong or self._writer is None:
                    continue
                self._writer.add_histogram_raw(
                    f"{target}/{row.name}",
                    min=histogram.minimum,
                    max=histogram.maximum,
                    num=histogram.count,
                    sum=histogram.sum,
                    sum_squares=histogram.sum_of_squares,
                    bucket_limits=histogram.bucket_limits,
                    bucket_counts=histogram.bucket_counts,
                    global_step=step,
                )
