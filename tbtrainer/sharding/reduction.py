"""The collectives that combine the snapshots of all ranks into one of the whole tensors.

Their number and sizes depend on the rows alone, so they are equal on every rank, whatever part of
the tensors a rank holds.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.statistics import BUCKET_COUNT, LINEAR_BUCKET_COUNT, Snapshot, SnapshotRows
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# Most numbers in one collective. They take 64 MiB and hold about 3,200 rows. More rows are sent in
# several collectives from the same buffer.
_MOST_SENT = 2**23
# The fields that are added up over ranks, in the order in which they are sent.
_ADDED = ("count", "zeros", "nonfinite", "sum", "sum_of_squares", "buckets")


class AllRanks:
    """Reduces over all ranks: one MAX collective for extremes, SUM collectives for the rest.

    The buffers from which a rank sends are allocated here. A rank that has no memory left at a
    snapshot can therefore still take part in its collectives.

    Args:
        rows: The rows of the snapshots, equal on every rank.
    """

    def __init__(self, rows: SnapshotRows) -> None:
        count, device = len(rows.names), rows.device
        # Numbers of the statistics, of the linear pass, and the number of ranks that failed.
        self._total = count * (5 + BUCKET_COUNT) + len(rows.linear_rows) * LINEAR_BUCKET_COUNT + 1
        self._extremes = torch.zeros(2 * count, dtype=torch.float64, device=device)
        size = min(self._total, _MOST_SENT)
        # All numbers are sent as float64, which is exact for counts up to 2**53.
        self._sent = torch.zeros(size, dtype=torch.float64, device=device)

    def reduce_extremes(self, statistics: TensorStatistics | None) -> None:
        """Replaces the minima and maxima by those over all ranks, in place; see `Reduction`."""
        rows = len(self._extremes) // 2
        negative_minimum, maximum = self._extremes[:rows], self._extremes[rows:]
        if statistics is None:
            self._extremes.fill_(-torch.inf)
        else:
            torch.neg(statistics.minimum, out=negative_minimum)
            maximum.copy_(statistics.maximum)
        dist.all_reduce(self._extremes, dist.ReduceOp.MAX)
        if statistics is not None:
            torch.neg(negative_minimum, out=statistics.minimum)
            statistics.maximum.copy_(maximum)

    def reduce_counts(self, snapshot: Snapshot | None) -> None:
        """Replaces counts and sums by those over all ranks, on world rank zero; see `Reduction`."""
        receives = dist.get_rank() == 0
        for begin in range(0, self._total, _MOST_SENT):
            sent = self._sent[: min(_MOST_SENT, self._total - begin)]
            sent.zero_()
            if snapshot is not None:
                for place, part in self._places(snapshot, begin, sent):
                    place.copy_(part)
            elif begin + len(sent) == self._total:
                sent[-1].fill_(1.0)
            dist.reduce(sent, 0, dist.ReduceOp.SUM)
            if receives and snapshot is not None:
                for place, part in self._places(snapshot, begin, sent):
                    part.copy_(place)

    def _places(
        self, snapshot: Snapshot, begin: int, sent: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs each slice of the buffer with the numbers of the snapshot that it holds.

        Args:
            snapshot: Snapshot of this rank.
            begin: Position of the buffer's first number among all numbers that are sent.
            sent: The buffer.
        """
        fields = [getattr(snapshot.statistics, name) for name in _ADDED]
        end, at = begin + len(sent), 0
        for numbers in (*fields, snapshot.linear, snapshot.failed_ranks):
            flat = numbers.view(-1)
            first, last = max(begin, at), min(end, at + len(flat))
            if first < last:
                yield sent[first - begin : last - begin], flat[first - at : last - at]
            at += len(flat)


def reduce_sum(values: Tensor) -> None:
    """Adds up a tensor over all ranks, in place, in one SUM collective.

    It allocates no memory, so a rank without memory can take part.

    Args:
        values: A contiguous tensor whose shape is equal on every rank. It is replaced by the sum.
    """
    dist.all_reduce(values, dist.ReduceOp.SUM)
