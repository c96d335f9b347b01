"""Makes records of a snapshot: its histograms, and what other readers find in it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from tbtrainer.histogram_tags import histogram_tag
from tbtrainer.records import HistogramRecord, Record
from tbtrainer.statistics import Snapshot, histograms

logger = logging.getLogger(__name__)

# Returns records of a snapshot. It is given the target, the optimizer step, and the snapshot of the
# whole tensors in main memory. It is called in another thread, and must not communicate.
SnapshotReader: TypeAlias = Callable[[str, int, Snapshot], Iterable[Record]]


def read_by_all(
    readers: Sequence[SnapshotReader], target: str, step: int, snapshot: Snapshot
) -> Iterator[Record]:
    """Waits until a snapshot is in main memory, and returns the records of each reader.

    An error of one reader does not keep the others from reading.

    Args:
        readers: They are called in this order.
        target: What is shown, such as `"parameters"`.
        step: Optimizer step of the snapshot.
        snapshot: Copied to the host, of the whole tensors.

    Raises:
        Exception: The first error of a reader, after the records of all of them.
    """
    snapshot.wait()
    first_error: Exception | None = None
    for read in readers:
        try:
            yield from read(target, step, snapshot)
        except Exception as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error


def histogram_records(
    target: str, step: int, snapshot: Snapshot, max_buckets: int
) -> list[HistogramRecord]:
    """Returns the histograms of a snapshot.

    Args:
        target: What is shown, such as `"parameters"`.
        step: Optimizer step of the snapshot.
        snapshot: In main memory, of the whole tensors.
        max_buckets: The most buckets of a histogram.
    """
    incomplete = _reported_incomplete_rows(target, step, snapshot)
    return [
        HistogramRecord(histogram_tag(target, snapshot.rows.names[row]), histogram)
        for row, histogram in enumerate(histograms(snapshot, max_buckets))
        if histogram is not None and row not in incomplete
    ]


def incomplete_rows(snapshot: Snapshot) -> set[int]:
    """Returns the rows of which not every element was counted.

    Args:
        snapshot: In main memory, of the whole tensors.
    """
    rows = snapshot.rows
    incomplete = set(rows.count_mismatches(snapshot.statistics.count.tolist()))
    if int(snapshot.failed_ranks):
        # Nothing else shows that the elements of a rank are missing in a row of unknown size.
        incomplete |= {row for row, size in enumerate(rows.tensor_counts) if size is None}
    return incomplete


def _reported_incomplete_rows(target: str, step: int, snapshot: Snapshot) -> set[int]:
    """Returns the rows of which not every element was counted, and logs why."""
    rows, failed_ranks = snapshot.rows, int(snapshot.failed_ranks)
    incomplete = incomplete_rows(snapshot)
    if failed_ranks and incomplete:
        logger.warning(
            "%d of %d histograms of the %s at step %d are left out, because %d rank(s) could "
            "not measure their parts; see the warnings of those ranks.",
            len(incomplete),
            len(rows.names),
            target,
            step,
            failed_ranks,
        )
    elif incomplete:
        for problem in rows.count_mismatches(snapshot.statistics.count.tolist()).values():
            logger.error("A histogram is left out because of a bug in tbtrainer: %s", problem)
    return incomplete
