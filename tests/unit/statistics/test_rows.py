"""Every element of a row is counted once, or the row is left out."""

import pytest
import torch

from tbtrainer.statistics import SnapshotRows

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counts", "wrong"), [([4, 2], []), ([0, 2], []), ([8, 2], [0]), ([3, 1], [0, 1])]
)
def test_a_tensor_is_counted_once_or_not_at_all(counts: list[int], wrong: list[int]) -> None:
    rows = SnapshotRows.of(["weight", "bias"], [4, 2], CPU)
    assert list(rows.count_mismatches(counts)) == wrong


def test_a_mismatch_names_tensor_and_counts() -> None:
    rows = SnapshotRows.of(["weight", "bias"], [4, 2], CPU)
    assert rows.count_mismatches([8, 2]) == {0: "weight has 4 elements, 8 were counted"}


def test_a_row_of_unknown_size_is_not_checked() -> None:
    assert SnapshotRows.of(["activation"], [None], CPU).count_mismatches([7]) == {}


@pytest.mark.parametrize(("count", "is_wrong"), [(12, False), (8, False), (10, True), (16, True)])
def test_members_of_a_row_are_counted_wholly_or_not(count: int, is_wrong: bool) -> None:
    rows = SnapshotRows.of(["experts.*"] * 3, [4, 4, 4], CPU)
    assert bool(rows.count_mismatches([count])) is is_wrong
