"""Modules have the names that their author gave them, and compiled ones are known."""

from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer.sharding.module_names import block_names, compiled_modules, named_modules
from tests.tiny import classifier


class Wrapper(nn.Module):
    """Holds a model as DDP and DeepSpeed do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Wrapped(nn.Module):
    """Holds a model as FSDP1 does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


def model() -> Any:
    return nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "head": nn.ReLU()})


NAMES = ["", "layers", "layers.0", "layers.1", "head"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own: own,
        Wrapper,
        Wrapped,
        lambda own: Wrapper(Wrapped(own)),
        lambda own: torch.compile(Wrapper(own), backend="eager"),
    ],
    ids=["alone", "module", "FSDP1", "both", "compiled"],
)
def test_wrappers_are_not_in_the_names(wrap: Any) -> None:
    own = model()
    found = named_modules(wrap(own))
    assert list(found) == NAMES
    assert found[""] is own
    assert found["head"] is own["head"]


def test_a_wrapper_inside_stands_for_its_module() -> None:
    own = model()
    own["layers"][0] = Wrapped(own["layers"][0])
    found = named_modules(own)
    assert sorted(found) == sorted(NAMES)
    assert isinstance(found["layers.0"], Wrapped)


def test_a_module_called_module_beside_others_keeps_its_name() -> None:
    own = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.ReLU()})
    assert list(named_modules(own)) == ["", "module", "head"]


def test_blocks_are_modules_with_a_number_and_parameters() -> None:
    assert block_names(classifier()) == {"bert.encoder.layer.0", "bert.encoder.layer.1"}
    nested = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))
    assert block_names(nested) == {"0", "2.0"}


def test_what_is_inside_of_a_compiled_module_is_known() -> None:
    own = model()
    assert compiled_modules(own) == set()
    own["layers"].compile(backend="eager")
    inside = (own["layers"], own["layers"][0], own["layers"][1])
    assert compiled_modules(own) == {id(module) for module in inside}


def test_a_compiled_forward_is_known() -> None:
    own = model()
    own["head"].forward = torch.compile(own["head"].forward, backend="eager")
    assert compiled_modules(own) == {id(own["head"])}
