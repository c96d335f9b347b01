"""Parameters that hold a NaN or an infinity are named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.observers import damaged_weights as module
from tbtrainer.observers.damaged_weights import damaged_weights
from tbtrainer.sharding import ParameterTable, Row, parameter_table
from tbtrainer.sharding.plain import PlainAdapter
from tests.gradients import CPU, Layers, table_of


class Sharded(PlainAdapter):
    """Stands for a way of sharding, so that ranks communicate."""

    is_sharded = True


def sharded_table(model: Layers) -> ParameterTable:
    rows = [Row(n, p, p.numel(), Sharded(True)) for n, p in model.named_parameters()]
    return ParameterTable(rows)


def damage(model: Layers, name: str, value: float) -> None:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value


def test_a_good_model_has_no_damaged_weights() -> None:
    assert damaged_weights(table_of(Layers()), CPU) == ()


def test_damaged_weights_are_named_in_the_order_of_the_model() -> None:
    model = Layers()
    damage(model, "layers.1.weight", float("nan"))
    damage(model, "embed.weight", float("-inf"))
    assert damaged_weights(table_of(model), CPU) == ("embed.weight", "layers.1.weight")


def test_frozen_parameters_are_looked_at() -> None:
    model = Layers()
    model.embed.weight.requires_grad = False
    damage(model, "embed.weight", float("inf"))
    assert damaged_weights(table_of(model), CPU) == ("embed.weight",)


def test_another_rank_than_zero_finds_none_of_whole_tensors() -> None:
    model = Layers()
    damage(model, "embed.weight", float("inf"))
    table = parameter_table(model, is_world_process_zero=False)
    assert damaged_weights(table, CPU) == ()


def test_what_is_not_wanted_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(Layers())
    monkeypatch.setattr(table, "parameters", None)
    assert damaged_weights(table, CPU, is_wanted=False) is None


class Others:
    """Stands for another rank in the collectives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, flags: list[bool]) -> None:
        self.collectives: list[str] = []
        self._flags = flags
        self.norms: Tensor | None = None
        monkeypatch.setattr(module, "true_on_any_rank", self.agree)
        monkeypatch.setattr(module, "reduce_sum", self.reduce)

    def agree(self, flags: list[bool]) -> list[bool]:
        self.collectives.append("agree")
        return [own or other for own, other in zip(flags, self._flags, strict=True)]

    def reduce(self, found: Tensor) -> None:
        self.collectives.append("reduce")
        if self.norms is not None:
            found.add_(self.norms)


def test_sharded_weights_are_read_if_another_rank_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = Others(monkeypatch, [True, False])
    others.norms = torch.tensor([0.0, float("nan"), 0.0, 0.0, 0.0], dtype=torch.float64)
    found = damaged_weights(sharded_table(Layers()), CPU, is_wanted=False)
    assert found == ("layers.0.weight",)
    assert others.collectives == ["agree", "reduce"]


def test_a_rank_that_cannot_read_reaches_the_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    others = Others(monkeypatch, [False, False])
    table = sharded_table(Layers())
    monkeypatch.setattr(module.TensorNorms, "into", fail)
    with pytest.raises(torch.OutOfMemoryError):
        damaged_weights(table, CPU)
    assert others.collectives == ["agree", "reduce"]


def test_without_memory_on_one_rank_no_rank_reduces(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others(monkeypatch, [True, True])
    with pytest.raises(RuntimeError, match="another rank has no memory"):
        damaged_weights(sharded_table(Layers()), CPU)
    assert others.collectives == ["agree"]


def test_a_rank_without_memory_tells_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    others = Others(monkeypatch, [False, False])
    table = sharded_table(Layers())
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "zeros", fail)
        damaged_weights(table, CPU)
    assert others.collectives == ["agree"]
