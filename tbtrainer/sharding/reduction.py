"""The collectives that combine the snapshots of all ranks into one of the whole tensors.

Their number and sizes depend on the rows alone, so they are equal on every rank, whatever part of
the tensors a rank holds.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.statistics import Snapshot, SnapshotRows
from tbtrainer.statistics.counters import counter_count
from tbtrainer.statistics.tensor_statistics import TensorStatistics

# The counters are sent in at most this many pieces, and in pieces of at least 1 MiB of int32. A
# rank without memory sends zeros from a buffer as large as a piece. It is all that is held of the
# counters between snapshots.
_MOST_PIECES = 16
_LEAST_PIECE = 2**18
# The fields that are added up over ranks beside the counters, in the order in which they are sent.
_ADDED = ("count", "zeros", "nonfinite", "sum", "sum_of_squares")


class AllRanks:
    """Reduces over all ranks: one MAX collective for extremes, SUM collectives for the rest.

    The counters are sent from the memory in which they were counted. What a rank without memory at
    a snapshot needs to take part in its collectives is allocated here: 56 bytes per row, and a
    sixteenth of the counters, but at most 1 MiB if these take less than 16 MiB.

    The sums go to every rank, although world rank zero alone needs them, because that is faster
    with many ranks. NCCL sums up to one rank along a ring of all ranks, which takes a time that
    grows with their number, and to all ranks along trees (NCCL, src/graph/tuning.cc). No rank
    allocates memory to receive.

    Args:
        rows: The rows of the snapshots, equal on every rank.
        sums_beside: Whether snapshots may have numbers `beside`, which are added up with the other
            sums and take 8 bytes more per row. Equal on every rank.

    Attributes:
        counts_dtype: int32 if no count can exceed it, else int64. The sizes of the rows decide.
    """

    def __init__(self, rows: SnapshotRows, sums_beside: bool = False) -> None:
        count, device = len(rows.names), rows.device
        self.counts_dtype = rows.smallest_counts_dtype
        self._total = counter_count(rows)
        self._piece = max(_LEAST_PIECE, -(-self._total // _MOST_PIECES))
        self._extremes = torch.zeros(2 * count, dtype=torch.float64, device=device)
        # The counts of elements are sent as float64, which is exact up to 2**53. The last number is
        # that of the ranks that failed.
        self._fields = len(_ADDED) + sums_beside
        self._sums = torch.zeros(self._fields * count + 1, dtype=torch.float64, device=device)
        size = min(self._total, self._piece)
        self._nothing = torch.zeros(size, dtype=self.counts_dtype, device=device)

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
        """Replaces counts and sums by those over all ranks, in place; see `Reduction`."""
        self._reduce_sums(snapshot)
        for begin in range(0, self._total, self._piece):
            if snapshot is None:
                sent = self._nothing[: self._total - begin].zero_()
            else:
                sent = snapshot.counters.numbers[begin : begin + self._piece]
            dist.all_reduce(sent, dist.ReduceOp.SUM)

    def _reduce_sums(self, snapshot: Snapshot | None) -> None:
        places, failed = self._sums[:-1].view(self._fields, -1), self._sums[-1]
        self._sums.zero_()
        added = [] if snapshot is None else self._added(snapshot)
        for place, values in zip(places, added, strict=False):
            place.copy_(values)
        if snapshot is None:
            failed.fill_(1.0)
        else:
            failed.copy_(snapshot.failed_ranks)
        dist.all_reduce(self._sums, dist.ReduceOp.SUM)
        for place, values in zip(places, added, strict=False):
            values.copy_(place)
        if snapshot is not None:
            snapshot.failed_ranks.copy_(failed)

    def _added(self, snapshot: Snapshot) -> list[Tensor]:
        """Returns what is added up over ranks, in the order in which it is sent."""
        added = [getattr(snapshot.statistics, name) for name in _ADDED]
        if snapshot.beside is not None and self._fields > len(_ADDED):
            added.append(snapshot.beside)
        return added


def reduce_sum(values: Tensor) -> None:
    """Adds up a tensor over all ranks, in place, in one SUM collective.

    It allocates no memory, so a rank without memory can take part.

    Args:
        values: A contiguous tensor whose shape is equal on every rank. It is replaced by the sum.
    """
    dist.all_reduce(values, dist.ReduceOp.SUM)
