"""Small collectives over all ranks, with one rank and with a process group."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding import world
from tbtrainer.sharding.world import (
    largest_on_any_rank,
    own_rank,
    reduce_max,
    true_on_any_rank,
    world_size,
)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def second_of_two(group: None, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Pretends that this is rank one of two; gives what it sends. Rank zero sends 0, 1, 0."""
    sent: list[Tensor] = []

    def meet(values: Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MAX
        sent.append(values.clone())
        values.copy_(torch.maximum(values, torch.tensor([0, 1, 0])))

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(world.dist, "all_reduce", meet)
    return sent


def test_without_a_process_group_there_is_one_rank() -> None:
    assert (world_size(), own_rank()) == (1, 0)
    assert true_on_any_rank([True, False]) == [True, False]


def test_a_group_of_one_is_one_rank(group: None) -> None:
    assert (world_size(), own_rank()) == (1, 0)


def test_a_rank_knows_its_place(second_of_two: list[Tensor]) -> None:
    assert (world_size(), own_rank()) == (2, 1)


def test_a_flag_of_any_rank_counts(second_of_two: list[Tensor]) -> None:
    assert true_on_any_rank([True, False, False]) == [True, True, False]
    assert len(second_of_two) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_flags_do_not_depend_on_the_default_dtype(
    dtype: torch.dtype, second_of_two: list[Tensor]
) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        true_on_any_rank([True, False, False])
    finally:
        torch.set_default_dtype(before)
    assert second_of_two[0].dtype == torch.float32


def test_the_largest_number_of_any_rank_counts(second_of_two: list[Tensor]) -> None:
    assert largest_on_any_rank([-3.0, 0.5, 2.0**32]) == [0.0, 1.0, 2.0**32]


def test_the_maximum_is_in_place(group: None) -> None:
    values = torch.tensor([-1.0, 3.0])
    reduce_max(values)
    assert values.tolist() == [-1.0, 3.0]
