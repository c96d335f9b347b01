"""A snapshot: the statistics of all tensors at one step, put together from every rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from tbtrainer.statistics.measure import measure, measure_linear
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.rows import SnapshotRows
from tbtrainer.statistics.tensor_statistics import TensorStatistics


@dataclass(frozen=True)
class Snapshot:
    """The statistics of all tensors at one step.

    Attributes:
        rows: Which tensors each row holds.
        statistics: Of each row, on `rows.device` or, after `to_host`, in main memory.
        linear: Counts of the linear pass. int64, shape (linear rows, LINEAR_BUCKET_COUNT).
        failed_ranks: Ranks that could not measure and added nothing. int64, shape ().
        copied_event: Fires when a copy to main memory is complete; `None` if nothing is in flight.
    """

    rows: SnapshotRows
    statistics: TensorStatistics
    linear: Tensor
    failed_ranks: Tensor
    copied_event: torch.cuda.Event | None = None

    def to_host(self) -> "Snapshot":
        """Begins a copy to main memory, which `wait` completes.

        On CUDA it goes to pinned memory, on a stream beside the training's, and nothing waits.
        """
        if not self.linear.is_cuda:
            cpu = torch.device("cpu")
            return self._mapped(lambda tensor: tensor.to(cpu), None)
        side = _side_stream(self.linear.device)
        side.wait_stream(torch.cuda.current_stream(self.linear.device))
        with torch.cuda.stream(side):
            event = torch.cuda.Event()
            on_host = self._mapped(lambda tensor: _to_pinned(tensor, side), event)
            event.record(side)
        return on_host

    def wait(self) -> "Snapshot":
        """Waits until the copy of `to_host` is complete, and returns the snapshot."""
        if self.copied_event is not None:
            self.copied_event.synchronize()
        return self

    def _mapped(
        self, copy: Callable[[Tensor], Tensor], event: torch.cuda.Event | None
    ) -> "Snapshot":
        statistics = TensorStatistics(
            **{name: copy(tensor) for name, tensor in vars(self.statistics).items()}
        )
        return replace(
            self,
            statistics=statistics,
            linear=copy(self.linear),
            failed_ranks=copy(self.failed_ranks),
            copied_event=event,
        )


class Reduction(Protocol):
    """Puts the snapshots of all ranks together. Every rank calls both methods, in this order."""

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        """Replaces the minima and maxima by those over all ranks, in place, on every rank.

        Args:
            statistics: This rank's; `None` if it could not measure.
        """
        ...

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        """Replaces counts and sums by those over all ranks, in place, on world rank zero.

        Args:
            snapshot: This rank's; `None` if it could not measure. On other ranks its numbers are
                those of the rank.
        """
        ...


class WholeTensors:
    """A `Reduction` that does nothing: one rank holds every tensor whole."""

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        """Does nothing: the extremes are those of the whole tensors."""

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        """Does nothing: the counts are those of the whole tensors."""


@torch.no_grad()
def take_snapshot(
    parts: Callable[[], Sequence[Tensor | None]],
    rows: SnapshotRows,
    reduction: Reduction,
    loss_scale: Tensor | None = None,
    backend: Backend = "auto",
) -> Snapshot:
    """Measures this rank's parts of all tensors and puts the parts of all ranks together.

    Every rank calls it at the same steps. A rank that fails adds nothing and takes part in both
    reductions all the same; its error is raised afterwards. Nothing waits for an accelerator.

    Args:
        parts: Gives this rank's part of each tensor, in the order of `rows.row_of`; `None` where it
            has none. Called here, because a rank that cannot read them must reach the reductions.
        rows: The row of each tensor.
        reduction: What puts the ranks together; `WholeTensors()` where nothing is sharded.
        loss_scale: What every element is divided by first, a scalar tensor.
        backend: Which reader reads the tensors.

    Returns:
        The snapshot on `rows.device`: of the whole tensors on world rank zero, of this rank's parts
        on others, with the extremes of the whole tensors.

    Raises:
        Exception: Whatever kept this rank from measuring, after both reductions.
    """
    error: Exception | None = None
    statistics = snapshot = None
    try:
        tensors = parts()
        statistics = measure(
            tensors, rows.device, loss_scale, backend, rows.row_of, len(rows.names)
        )
    except Exception as caught:
        error = caught
    reduction.reduce_extremes(statistics)
    if statistics is not None:
        try:
            linear = _linear_pass(tensors, rows, statistics, loss_scale, backend)
            failed_ranks = torch.zeros((), dtype=torch.int64, device=rows.device)
            snapshot = Snapshot(rows, statistics, linear, failed_ranks)
        except Exception as caught:
            error = caught
    reduction.reduce_counts(snapshot)
    if error is not None:
        raise error
    assert snapshot is not None
    return snapshot


def _linear_pass(
    tensors: Sequence[Tensor | None],
    rows: SnapshotRows,
    statistics: TensorStatistics,
    loss_scale: Tensor | None,
    backend: Backend,
) -> Tensor:
    chosen, places = [], []
    for row, tensor in zip(rows.row_of, tensors, strict=True):
        if row in rows.linear_row_of:
            chosen.append(tensor)
            places.append(rows.linear_row_of[row])
    minimum, maximum = statistics.minimum[rows.linear_index], statistics.maximum[rows.linear_index]
    return measure_linear(chosen, minimum, maximum, loss_scale, backend, places)


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
