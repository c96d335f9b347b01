"""Each reader of a snapshot returns its records, whatever happens to the others."""

from collections.abc import Iterator

import pytest
import torch

from tbtrainer.observers.snapshot_records import histogram_records, read_by_all
from tbtrainer.records import Record, Scalar
from tbtrainer.statistics import Snapshot, SnapshotRows, WholeTensors, take_snapshot

CPU = torch.device("cpu")


def snapshot_of(size: int | None) -> Snapshot:
    rows = SnapshotRows.of(["weight"], [size], CPU)
    return take_snapshot(lambda: [torch.ones(4)], rows, WholeTensors())


def first(target: str, step: int, snapshot: Snapshot) -> Iterator[Record]:
    yield Scalar(f"first/{target}", step)
    raise RuntimeError("first fails")


def second(target: str, step: int, snapshot: Snapshot) -> list[Record]:
    return [Scalar(f"second/{target}", int(snapshot.statistics.count))]


def test_a_reader_that_fails_keeps_no_other_from_reading() -> None:
    read = read_by_all([first, second], "updates", 3, snapshot_of(4))
    assert [next(read), next(read)] == [Scalar("first/updates", 3), Scalar("second/updates", 4)]
    with pytest.raises(RuntimeError, match="first fails"):
        next(read)


def test_rows_of_unknown_size_without_a_rank_are_left_out() -> None:
    snapshot = snapshot_of(None)
    assert len(histogram_records("heads", 1, snapshot, 64)) == 1
    snapshot.failed_ranks.fill_(1)
    assert histogram_records("heads", 1, snapshot, 64) == []
