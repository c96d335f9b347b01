"""Bytes of every rank on world rank zero, and sums of numbers that mean the same."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.gathering import Gathered, gather_on_rank_zero
from tests.threaded_ranks import ThreadedRanks


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The packet of a rank, and the numbers and the meaning of each group.
Sent = tuple[bytes, list[tuple[Tensor, int]]]


def gathered(*sent: Sent) -> tuple[list[Gathered], list[str]]:
    """What each rank has received, and in which collectives."""
    ranks = ThreadedRanks(len(sent))

    def gather(rank: int) -> Gathered:
        packet, groups = sent[rank]
        return gather_on_rank_zero(packet, [g for g, _ in groups], [m for _, m in groups])

    return ranks.run(gather), ranks.collectives


def on_rank_zero(*sent: Sent) -> Gathered:
    return gathered(*sent)[0][0]


def sums(found: Gathered) -> list[list[float] | None]:
    return [None if group is None else group.tolist() for group in found.sums]


def test_one_process_has_its_own() -> None:
    found = gather_on_rank_zero(b"abc", [numbers(1, 2)], [7])
    assert found.packets == [b"abc"] and sums(found) == [[1, 2]]


def test_packets_of_any_length_arrive_by_rank() -> None:
    found = on_rank_zero((b"a", []), (b"", []), (b"long \x00 packet", []))
    assert found.packets == [b"a", b"", b"long \x00 packet"]


def test_other_ranks_receive_no_packets() -> None:
    found, _ = gathered((b"a", []), (b"b", []))
    assert found[1].packets == []


def test_numbers_of_all_ranks_are_added_by_group() -> None:
    found = on_rank_zero(
        (b"", [(numbers(1, 2), 5), (numbers(10), 6)]), (b"", [(numbers(3, 4), 5), (numbers(20), 6)])
    )
    assert sums(found) == [[4, 6], [30]]


def test_whole_numbers_are_added_exactly() -> None:
    found = on_rank_zero((b"", [(numbers(2.0**52 + 1), 5)]), (b"", [(numbers(2), 5)]))
    assert sums(found) == [[2.0**52 + 3]]


def test_a_rank_may_have_no_numbers() -> None:
    found = on_rank_zero((b"", [(numbers(), 0)]), (b"", [(numbers(3, 4), 5)]))
    assert sums(found) == [[3, 4]]


@pytest.mark.parametrize("other", [(numbers(1, 2), 6), (numbers(1, 2, 3), 5)])
def test_a_group_that_means_different_things_is_not_added(other: tuple[Tensor, int]) -> None:
    found = on_rank_zero(
        (b"a", [(numbers(1, 2), 5), (numbers(1), 9)]), (b"b", [other, (numbers(1), 9)])
    )
    assert sums(found) == [None, [2]]
    assert found.packets == [b"a", b"b"]


def test_only_what_there_is_takes_a_collective() -> None:
    agreed = ["all_gather", "all_reduce RedOpType.MAX"]
    assert gathered((b"", []), (b"", []))[1] == agreed
    assert gathered((b"a", []), (b"", []))[1] == [*agreed, "gather"]
    everything = (b"a", [(numbers(1), 5)]), (b"", [(numbers(1), 5)])
    assert gathered(*everything)[1] == [*agreed, "reduce", "gather"]


def test_this_ranks_numbers_stay_as_they_are() -> None:
    own = numbers(1, 2)
    gathered((b"", [(own, 5)]), (b"", [(numbers(3, 4), 5)]))
    assert own.tolist() == [1, 2]


@pytest.mark.parametrize("poor", [0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_a_rank_without_memory_fails_on_all_alike(
    poor: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = torch.zeros

    def limited(*shape: int, **options: Any) -> Tensor:
        if dist.get_rank() == poor and options["dtype"] == dtype:
            raise MemoryError("no memory")
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", limited)
    causes: list[BaseException | None] = []

    def gather(rank: int) -> None:
        with pytest.raises(
            MemoryError, match="a rank has no memory for 3 bytes and 1 numbers"
        ) as e:
            gather_on_rank_zero(b"abc" if rank == 0 else b"", [numbers(1)], [5])
        causes.append(e.value.__cause__)

    ranks = ThreadedRanks(3)
    ranks.run(gather)
    assert ranks.collectives == ["all_gather", "all_reduce RedOpType.MAX"]
    assert sorted(map(str, causes)) == ["None", "None", "no memory"]
