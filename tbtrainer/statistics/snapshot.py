"""Snapshots: the statistics of all tensors at one step, combined over all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from tbtrainer.statistics.counters import Counters
from tbtrainer.statistics.narrow import NarrowRows, PreviousExtremes, ends_of_pass
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.rows import SnapshotRows
from tbtrainer.statistics.sources import GivenTensors, Source
from tbtrainer.statistics.tensor_statistics import TensorStatistics


@dataclass(frozen=True)
class Snapshot:
    """The statistics of all tensors at one step.

    Attributes:
        rows: Which tensors each row holds.
        statistics: Statistics of each row, on `rows.device` or, after `to_host`, in main memory.
        counters: The counters of the statistics and of the linear pass, in one piece.
        narrow: The rows beside `rows.linear_rows` that have a linear pass in this snapshot.
        failed_ranks: Number of ranks that could not measure and added no elements. int64, shape ().
        beside: What was measured beside the tensors, a number per row. float64, shape (rows,), on
            `rows.device`; `None` if there is nothing.
        copied_event: Fires when the copy to main memory is complete; `None` if no copy is running.
    """

    rows: SnapshotRows
    statistics: TensorStatistics
    counters: Counters
    narrow: NarrowRows
    failed_ranks: Tensor
    beside: Tensor | None = None
    copied_event: torch.cuda.Event | None = None

    @property
    def linear(self) -> Tensor:
        """Counts of the linear pass. Shape (lines, LINEAR_BUCKET_COUNT); see `linear_line_of`."""
        return self.counters.linear

    @property
    def linear_line_of(self) -> dict[int, int]:
        """The line of `linear` of each row that has a linear pass in this snapshot."""
        first = len(self.rows.linear_rows)
        return {
            **self.rows.linear_row_of,
            **{row: first + slot for slot, row in enumerate(self.narrow.rows)},
        }

    def to_host(self) -> "Snapshot":
        """Begins a copy to main memory. It is complete when `wait` of the result returns.

        On CUDA the copy goes to pinned memory on a stream of its own, so that neither the host nor
        the training's stream waits.
        """
        if not self.failed_ranks.is_cuda:
            cpu = torch.device("cpu")
            return self._mapped(lambda tensor: tensor.to(cpu), None)
        side = _side_stream(self.failed_ranks.device)
        side.wait_stream(torch.cuda.current_stream(self.failed_ranks.device))
        with torch.cuda.stream(side):
            event = torch.cuda.Event()
            on_host = self._mapped(lambda tensor: _to_pinned(tensor, side), event)
            event.record(side)
        return on_host

    def wait(self) -> "Snapshot":
        """Waits until the copy that `to_host` began is complete, and returns this snapshot."""
        if self.copied_event is not None:
            self.copied_event.synchronize()
        return self

    def _mapped(
        self, copy: Callable[[Tensor], Tensor], event: torch.cuda.Event | None
    ) -> "Snapshot":
        counters = Counters.of(self.rows, copy(self.counters.numbers))
        copies = {
            name: counters.buckets if name == "buckets" else copy(tensor)
            for name, tensor in vars(self.statistics).items()
        }
        return replace(
            self,
            statistics=TensorStatistics(**copies),
            counters=counters,
            failed_ranks=copy(self.failed_ranks),
            beside=None if self.beside is None else copy(self.beside),
            copied_event=event,
        )


class Reduction(Protocol):
    """Combines the snapshots of all ranks. Every rank calls both methods, in this order."""

    @property
    def counts_dtype(self) -> torch.dtype | None:
        """The dtype of the counters that it combines, int32 or int64; `None` for either."""
        ...

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        """Replaces the minima and maxima by those over all ranks, in place, on every rank.

        Args:
            statistics: Statistics of this rank; `None` if it could not measure.
        """
        ...

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        """Replaces counts and sums by those over all ranks, in place, on every rank.

        Args:
            snapshot: Snapshot of this rank; `None` if it could not measure.
        """
        ...


class WholeTensors:
    """A `Reduction` without communication, for tensors that are not sharded."""

    counts_dtype = None

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        """Leaves the extremes as they are: they are those of the whole tensors."""

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        """Leaves the counts as they are: they are those of the whole tensors."""


@torch.no_grad()
def take_snapshot(
    parts: Callable[[], Sequence[Tensor | None] | Source],
    rows: SnapshotRows,
    reduction: Reduction,
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
    previous: PreviousExtremes | None = None,
    beside: Callable[[], Tensor] | None = None,
) -> Snapshot:
    """Measures this rank's parts of all tensors and combines the parts of all ranks.

    Every rank calls this at the same steps. A rank whose measurement fails still takes part in both
    reductions, and adds no elements. Its error is raised after them. The host does not wait for an
    accelerator.

    Args:
        parts: Returns this rank's part of each tensor, in the order of `rows.row_of`; `None` for a
            tensor of which it has no part. Or a `Source` of them. It is called here, so that a rank
            on which it fails takes part in the reductions too.
        rows: The rows of the snapshot.
        reduction: How the ranks are combined; `WholeTensors()` if no tensor is sharded.
        loss_scale: Loss scale that every element is divided by, a scalar tensor.
        backend: Which reader reads the tensors.
        previous: The extremes of the previous snapshot of these tensors. They decide which large
            tensors get a linear pass, and are replaced by those of this snapshot. `None`: no large
            tensor gets one.
        beside: Returns this rank's share of a sum per row, which `Snapshot.beside` holds for all
            ranks together. float64, shape (rows,), on `rows.device`. A reduction over ranks has to
            be made for it.

    Returns:
        The snapshot of the whole tensors, on `rows.device`.

    Raises:
        Exception: Whatever kept this rank from measuring, after both reductions.
    """
    error: Exception | None = None
    statistics = snapshot = None
    try:
        found = parts()
        source = GivenTensors(found) if isinstance(found, Sequence) else found
        counters = Counters.zeros(rows, reduction.counts_dtype or _counts_dtype(rows))
        measured = TensorStatistics.empty(len(rows.names), rows.device, counters.buckets)
        source.measure_into(measured, rows.row_of, loss_scale, backend)
        measured_beside = None if beside is None else beside()
        statistics = measured
    except Exception as caught:
        error = caught
    reduction.reduce_extremes(statistics)
    if statistics is not None:
        try:
            narrow = NarrowRows() if previous is None else previous.narrow_rows()
            failed_ranks = torch.zeros((), dtype=torch.int64, device=rows.device)
            measured_rows = Snapshot(
                rows, statistics, counters, narrow, failed_ranks, measured_beside
            )
            _linear_pass(measured_rows, source, loss_scale, backend)
            snapshot = measured_rows
        except Exception as caught:
            error = caught
    if previous is not None:
        previous.keep(statistics)
    reduction.reduce_counts(snapshot)
    if error is not None:
        raise error
    assert snapshot is not None
    return snapshot


def _counts_dtype(rows: SnapshotRows) -> torch.dtype:
    """Returns the dtype of counters that are not sent to other ranks.

    In main memory it is the smallest one, because the compiled reader counts in either. The readers
    of accelerators count in int64.
    """
    return rows.smallest_counts_dtype if rows.device.type == "cpu" else torch.int64


def _linear_pass(
    snapshot: Snapshot, source: Source, loss_scale: Tensor | None, backend: Backend
) -> None:
    """Adds the linear pass to a snapshot whose extremes are those of the whole tensors."""
    rows, line_of = snapshot.rows, snapshot.linear_line_of
    lines = [line_of.get(row) for row in rows.row_of]
    minimum, maximum = ends_of_pass(rows, snapshot.statistics, snapshot.narrow)
    source.linear_into(snapshot.linear, lines, minimum, maximum, loss_scale, backend)


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)
    return _side_streams[device]


def _to_pinned(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True, device="cpu")
    pinned.copy_(tensor, non_blocking=True)
    # The allocator must not give the memory to the training before the copy has read it.
    tensor.record_stream(stream)
    return pinned
