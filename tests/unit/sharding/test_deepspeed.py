from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.sharding import UnsupportedTensor, deepspeed
from tbtrainer.sharding.deepspeed import PartitionedGradientsAdapter, Zero3Adapter


@given(count=st.integers(1, 50), ranks=st.integers(1, 8))
def test_partitions_without_padding_make_the_whole_tensor(count: int, ranks: int) -> None:
    size = -(-count // ranks)
    padded = torch.full((size * ranks,), torch.nan)
    padded[:count] = torch.arange(float(count))
    parts = []
    for rank in range(ranks):
        parameter: Any = torch.nn.Parameter(torch.empty(0))
        parameter.ds_numel, parameter.ds_process_group = count, None
        parameter.ds_tensor = padded[rank * size : (rank + 1) * size]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deepspeed.dist, "get_rank", lambda group, rank=rank: rank)
            parts.append(Zero3Adapter().part(parameter, parameter))
    assert torch.cat(parts).tolist() == list(range(count))


def fragment_of(gradient: torch.Tensor, start: int, count: int) -> Any:
    parameter: Any = torch.nn.Parameter(torch.zeros(2, 3))
    parameter._index_in_param_group = 0
    parameter._hp_mapping = SimpleNamespace(
        lp_fragment_address=SimpleNamespace(start=start, numel=count),
        get_lp_grad_fragment=lambda index: gradient,
    )
    return parameter


def gradient_part(parameter: Any) -> list[float] | None:
    part = PartitionedGradientsAdapter("zero2", False).gradient_part(parameter)
    return None if part is None else part.tolist()


def test_a_fragment_is_the_part() -> None:
    assert gradient_part(fragment_of(torch.tensor([1.0, 2.0]), 4, 2)) == [1.0, 2.0]


def test_of_a_whole_gradient_only_the_own_fragment_is_the_part() -> None:
    assert gradient_part(fragment_of(torch.arange(6.0).view(2, 3), 4, 2)) == [4.0, 5.0]


def test_a_fragment_of_another_size_than_its_place_is_refused() -> None:
    with pytest.raises(UnsupportedTensor, match="another size"):
        gradient_part(fragment_of(torch.arange(3.0), 4, 2))


def test_a_rank_without_a_fragment_has_no_part() -> None:
    parameter: Any = torch.nn.Parameter(torch.zeros(2))
    parameter._hp_mapping = None
    assert gradient_part(parameter) is None
