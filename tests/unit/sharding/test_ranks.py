"""Numbers of every rank, and how many ranks share a sample."""

from types import SimpleNamespace
from typing import Any

import pytest

from tbtrainer.sharding.ranks import ModelParallelSizes, RankNumbers


def test_one_process_has_its_own_numbers_alone() -> None:
    assert RankNumbers(2).gathered([1.5, 2.0]) == [[1.5, 2.0]]


def accelerator(**sizes: int) -> Any:
    return SimpleNamespace(parallelism_config=SimpleNamespace(**sizes))


@pytest.mark.parametrize(
    "sizes, per_token, per_sample",
    [
        ({}, 1, 1),
        ({"tp_size": 2}, 2, 2),
        ({"tp_size": 2, "cp_size": 3}, 6, 6),
        ({"sp_size": 4}, 1, 4),
    ],
)
def test_ranks_of_one_group_count_a_sample_once(
    sizes: dict[str, int], per_token: int, per_sample: int
) -> None:
    found = ModelParallelSizes.of(accelerator(**sizes), model=None)
    assert (found.ranks_per_token, found.ranks_per_sample) == (per_token, per_sample)


def test_a_model_that_is_divided_when_loaded_knows_its_size() -> None:
    model = SimpleNamespace(_tp_size=2)
    assert ModelParallelSizes.of(accelerator(), model).tensor == 2


def test_the_size_of_deepspeed_is_in_its_configuration() -> None:
    plugin = SimpleNamespace(deepspeed_config={"tensor_parallel": {"autotp_size": 2}})
    found = ModelParallelSizes.of(
        SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)), model=None
    )
    assert found.tensor == 2


def test_an_accelerator_without_parallelism_divides_nothing() -> None:
    assert ModelParallelSizes.of(SimpleNamespace(), model=None) == ModelParallelSizes(1, 1, 1)
