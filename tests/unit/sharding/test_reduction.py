from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
import torch.distributed as dist

from tbtrainer.sharding import reduce_counts, reduce_extremes, reduce_sum
from tbtrainer.statistics import measure

CPU = torch.device("cpu")


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_extremes_of_one_rank_are_its_own() -> None:
    minimum, maximum = torch.tensor([-2.0, torch.inf]), torch.tensor([3.0, -torch.inf])
    reduced = reduce_extremes(minimum, maximum, None)
    assert [end.tolist() for end in reduced] == [minimum.tolist(), maximum.tolist()]


@pytest.mark.usefixtures("one_rank")
def test_counts_and_sums_of_one_rank_are_its_own() -> None:
    statistics = measure([torch.randn(70), None, torch.tensor([0.0, torch.nan])], CPU)
    linear = torch.arange(6).view(3, 2)
    reduced, reduced_linear = reduce_counts(statistics, linear, None)
    assert torch.equal(reduced_linear, linear)
    for field in fields(statistics):
        before, after = getattr(statistics, field.name), getattr(reduced, field.name)
        assert after.dtype == before.dtype
        assert torch.equal(after, before), field.name


@pytest.mark.usefixtures("one_rank")
def test_counts_of_the_largest_tensors_stay_exact() -> None:
    largest = torch.tensor([[2**53]])
    statistics = measure([torch.ones(1)], CPU)
    assert reduce_counts(statistics, largest, None)[1].tolist() == [[2**53]]


@pytest.mark.usefixtures("one_rank")
def test_a_sum_is_made_in_place() -> None:
    values = torch.ones(2, 3)
    reduce_sum(values)
    assert values.tolist() == [[1.0, 1.0, 1.0]] * 2
