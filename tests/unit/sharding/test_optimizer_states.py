"""Which states of an optimizer are divided like its parameters, and which names the ranks know."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer.sharding import parameter_table
from tbtrainer.sharding.deepspeed import PartitionedGradientsAdapter, Zero3Adapter
from tbtrainer.sharding.optimizer_states import (
    MOST_STATES,
    OptimizerStates,
    StateNameExchange,
    StateNames,
)
from tbtrainer.sharding.table import ParameterTable
from tests.threaded_ranks import ThreadedRanks


def states_of(model: nn.Module, optimizer: Any) -> OptimizerStates:
    return OptimizerStates(parameter_table(model, is_world_process_zero=True), optimizer)


def optimizer_with(model: nn.Module, **held: Any) -> Any:
    """An optimizer that holds these for the weight of a linear layer."""
    return SimpleNamespace(state={model.weight: held})


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(3, 2)


class Subclass(Tensor):
    """A tensor subclass, as of a packed 8-bit state."""


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (torch.tensor(3.0), "one number per parameter"),
        (torch.zeros(2), "another shape than the parameter"),
        (torch.zeros(3, 2), "another shape than the parameter"),
        (torch.zeros(2, 3, dtype=torch.uint8), "torch.uint8, as of a quantised state"),
        (torch.zeros(2, 3).as_subclass(Subclass), "the tensor type Subclass is not supported"),
    ],
    ids=["number", "row", "transposed", "whole numbers", "subclass"],
)
def test_a_state_that_is_not_divided_has_a_reason(
    model: nn.Module, state: Tensor, reason: str
) -> None:
    states = states_of(model, optimizer_with(model, moment=torch.zeros(2, 3), other=state))
    names = states.names()
    assert names.shown == ("moment",)
    assert reason in names.left_out["other"]
    assert states.parts("other") == [None, None]


def test_what_is_no_tensor_has_no_name(model: nn.Module) -> None:
    names = states_of(
        model, optimizer_with(model, step=3, projector=object(), nothing=None)
    ).names()
    assert (names.shown, names.left_out) == ((), {})


def test_numbers_alone_are_no_problem(model: nn.Module) -> None:
    names = states_of(model, optimizer_with(model, step=torch.tensor(1.0))).names()
    assert names.problems == {}


def test_a_parameter_of_one_number_shows_no_step() -> None:
    model = nn.ParameterDict(
        {"scale": nn.Parameter(torch.tensor(1.0)), "w": nn.Parameter(torch.ones(3))}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    (model["scale"] * model["w"]).sum().backward()
    optimizer.step()
    states = states_of(model, optimizer)
    assert states.names().shown == ("exp_avg", "exp_avg_sq")
    assert [None if p is None else p.numel() for p in states.parts("exp_avg")] == [1, 3]


def test_reading_adds_nothing_to_the_optimizer(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    states = states_of(model, optimizer)
    assert (states.names(), states.parts("exp_avg")) == (StateNames(), [None, None])
    assert len(optimizer.state) == 0


def test_an_unknown_place_of_the_states_is_a_reason(model: nn.Module) -> None:
    table = parameter_table(model, is_world_process_zero=True)
    parameter: Any = table.rows[0].parameter
    parameter._hp_mapping = SimpleNamespace(param_group_index=0)
    adapter = PartitionedGradientsAdapter("zero2", True)
    row = SimpleNamespace(name="weight", parameter=parameter, global_count=6, adapter=adapter)
    names = OptimizerStates(ParameterTable([row]), None).names()  # type: ignore[list-item]
    ((reason, left_out),) = names.problems.items()
    assert "ZeRO-1 and -2's optimizer states in an unknown place" in reason
    assert left_out == ["those of some parameters"]


def test_states_on_nvme_are_refused() -> None:
    parameter: Any = nn.Parameter(torch.zeros(2))
    parameter._z3_optimizer = SimpleNamespace(swap_optimizer=True)
    parameter.ds_tensor = torch.zeros(2)
    row = SimpleNamespace(name="w", parameter=parameter, global_count=4, adapter=Zero3Adapter())
    names = OptimizerStates(ParameterTable([row]), None).names()  # type: ignore[list-item]
    assert "DeepSpeed keeps them on NVMe" in names.problems


def test_every_rank_learns_the_names_of_all() -> None:
    own = [StateNames(("b",), {"step": "x"}), StateNames(), StateNames(("a", "b"))]
    ranks = ThreadedRanks(3)
    found = ranks.run(lambda rank: StateNameExchange().of_all_ranks(own[rank]))
    assert found == [StateNames(("a", "b"), {"step": "x"})] * 3
    assert len(ranks.collectives) == 1


@pytest.mark.parametrize("length", [10, 5000])
def test_names_of_any_length_are_one_collective(length: int) -> None:
    own = StateNames(("a", "b" * length), {"c": "d" * length})
    ranks = ThreadedRanks(2)
    found = ranks.run(lambda rank: StateNameExchange().of_all_ranks(own))
    assert len(ranks.collectives) == 1
    assert found == [own if length == 10 else StateNames(("a",))] * 2


def test_one_process_needs_no_collective() -> None:
    own = StateNames(("a",))
    assert StateNameExchange().of_all_ranks(own) is own


def test_the_number_of_states_is_bounded() -> None:
    many = StateNames(tuple(str(n) for n in range(100)))
    assert len(StateNames.of_all([many]).shown) == MOST_STATES
