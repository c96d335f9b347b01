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


def test_the_part_of_a_gradient_is_the_own_fragment() -> None:
    assert gradient_part(fragment_of(torch.arange(6.0).view(2, 3), 4, 2)) == [4.0, 5.0]


def test_a_fragment_of_another_size_than_its_place_is_refused() -> None:
    with pytest.raises(UnsupportedTensor, match="differs from that of"):
        gradient_part(fragment_of(torch.arange(3.0), 4, 2))


def test_a_rank_without_a_fragment_has_no_part() -> None:
    parameter: Any = torch.nn.Parameter(torch.zeros(2))
    parameter._hp_mapping = None
    assert gradient_part(parameter) is None


def zero3_parameter(optimizer: Any, count: int = 3) -> Any:
    """A parameter of ZeRO-3 on the only rank, with one element of padding."""
    parameter: Any = torch.nn.Parameter(torch.empty(0))
    parameter.ds_id, parameter.ds_numel, parameter.ds_process_group = 7, count, None
    parameter.ds_tensor = torch.arange(count + 1.0)
    parameter._z3_optimizer = optimizer
    return parameter


@pytest.fixture
def first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed.dist, "get_rank", lambda group: 0)


@pytest.mark.usefixtures("first_rank")
def test_any_tensor_partitioned_like_its_parameter_has_a_part() -> None:
    parameter = zero3_parameter(None)
    adapter = Zero3Adapter()
    assert adapter.part(parameter, parameter).tolist() == [0.0, 1.0, 2.0]
    moment = torch.full((4,), 5.0)
    part = adapter.part(parameter, moment)
    assert part.tolist() == [5.0] * 3
    assert part.data_ptr() == moment.data_ptr()
    with pytest.raises(UnsupportedTensor, match="differs from that of"):
        adapter.part(parameter, torch.ones(9))


@pytest.mark.usefixtures("first_rank")
def test_an_offloaded_gradient_is_a_view_of_the_optimizers() -> None:
    flat = SimpleNamespace(grad=torch.arange(10.0))
    optimizer = SimpleNamespace(
        offload_optimizer=True,
        grad_position={0: [1, 2, 4]},
        get_param_id=lambda parameter: 0,
        fp32_partitioned_groups_flat=[None, flat],
    )
    part = Zero3Adapter().gradient_part(zero3_parameter(optimizer))
    assert part is not None
    assert part.tolist() == [2.0, 3.0, 4.0]
    assert part.untyped_storage().data_ptr() == flat.grad.untyped_storage().data_ptr()


@pytest.mark.usefixtures("first_rank")
@pytest.mark.parametrize("offload", [True, False])
def test_gradients_in_an_unknown_place_are_refused(offload: bool) -> None:
    optimizer = SimpleNamespace(offload_optimizer=offload)
    with pytest.raises(UnsupportedTensor, match="unknown place"):
        Zero3Adapter().gradient_part(zero3_parameter(optimizer))


@pytest.mark.parametrize(("swaps", "refused"), [(True, True), (False, False)])
def test_an_optimizer_on_nvme_has_no_gradients(swaps: bool, refused: bool) -> None:
    model = torch.nn.Module()
    model.weight = zero3_parameter(SimpleNamespace(swap_optimizer=swaps))
    (adapter,) = deepspeed.deepspeed_adapters(model, is_world_process_zero=True)
    assert (adapter.gradient_problem is not None) == refused


def test_gradients_of_zero_may_be_copies_that_are_in_flight() -> None:
    assert PartitionedGradientsAdapter("zero2", False).copies_gradients
    assert Zero3Adapter().copies_gradients


@pytest.mark.parametrize("is_zero", [True, False])
def test_whole_parameters_are_counted_by_world_rank_zero(is_zero: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    part = PartitionedGradientsAdapter("zero2", is_zero).part(parameter, parameter)
    assert (part is not None) == is_zero
