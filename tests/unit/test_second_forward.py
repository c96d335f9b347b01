"""A forward pass is repeated with the same numbers, and its first bad module is found."""

import copy
import random
from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tbtrainer.random_states import RandomStates
from tbtrainer.second_forward import ForwardPass, first_bad_module

NAN = float("nan")


class Split(nn.Module):
    """Returns its input in some form; divides by zero where it is asked to."""

    def __init__(self, form: str = "tensor", is_bad: bool = False) -> None:
        super().__init__()
        self._form = form
        self._is_bad = is_bad

    def forward(self, values: Tensor) -> Any:
        values = values / 0 if self._is_bad else values
        forms: dict[str, Any] = {
            "tensor": values,
            "tuple": (torch.zeros(1), values),
            "dict": {"hidden": values, "count": 3, "ids": torch.ones(2, dtype=torch.long)},
            "nested": [None, {"states": (values,)}],
        }
        return forms[self._form]


def tensor_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        return tensor_of(output.get("hidden", output.get("states")))
    return tensor_of(output[-1])


class Net(nn.Module):
    """Two linear layers, dropout, and a layer of some form between."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.middle = Split() if middle is None else middle
        self.last = nn.Linear(4, 1)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = tensor_of(self.middle(self.dropout(self.first(inputs))))
        loss: Tensor = self.last(hidden).mean()
        return loss


def compute_loss(model: nn.Module, inputs: Any, **_: Any) -> Tensor:
    loss: Tensor = model(**inputs)
    return loss


def kept(value: float = 1.0, compute: Any = compute_loss, model: Any = None) -> ForwardPass:
    inputs = {"inputs": torch.full((3, 4), value), "labels": torch.zeros(3)}
    return ForwardPass.of(compute, (model, inputs), {})


def found_in(model: nn.Module, *values: float) -> str | None:
    return first_bad_module(model, [kept(value, model=model) for value in values])


def test_a_good_forward_pass_has_no_bad_module() -> None:
    assert found_in(Net(), 1.0) is None


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "nested"])
def test_the_first_module_with_a_bad_output_is_named(form: str) -> None:
    assert found_in(Net(Split(form, is_bad=True)), 1.0) == "middle"


@pytest.mark.parametrize("name", ["first", "last"])
def test_a_module_with_a_damaged_weight_is_named(name: str) -> None:
    model = Net()
    with torch.no_grad():
        getattr(model, name).weight[0, 0] = NAN
    assert found_in(model, 1.0) == name


def test_the_innermost_module_is_named() -> None:
    model = Net(nn.Sequential(Split(), Split(is_bad=True), Split()))
    assert found_in(model, 1.0) == "middle.1"


def test_a_module_with_float8_outputs_hides_no_other() -> None:
    class Float8(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.to(torch.float8_e4m3fn)

    class Quantised(nn.Sequential):
        def forward(self, values: Tensor) -> Tensor:
            return self[1](self[0](values).to(values.dtype))  # type: ignore[no-any-return]

    model = Net(Quantised(Float8(), Split(is_bad=True)))
    assert found_in(model, 1.0) == "middle.1"


def test_bad_inputs_are_no_fault_of_a_module() -> None:
    assert found_in(Net(), NAN) is None


def test_what_happens_between_modules_is_that_of_the_model() -> None:
    class Bad(Net):
        def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
            return super().forward(inputs) * torch.tensor(NAN)

    assert found_in(Bad(), 1.0) == "Bad"


def test_each_micro_batch_is_repeated() -> None:
    # Only the larger value overflows.
    assert found_in(Net(Power()), 1.0, 1e30) == "middle"
    assert found_in(Net(Power()), 1e30, 1.0) == "middle"
    assert found_in(Net(Power()), 1.0, 1.0) is None


class Power(nn.Module):
    """Overflows at large values."""

    def forward(self, values: Tensor) -> Tensor:
        return values**8


def test_names_are_those_without_wrappers() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self._orig_mod(*args, **kwargs)

    model = Net(Wrapper(nn.Sequential(Split(is_bad=True))))
    assert found_in(model, 1.0) == "middle.0"


# ---- Repeating ----


def test_a_repeated_pass_draws_the_same_numbers() -> None:
    drawn: list[Any] = []

    def compute(*_: Any) -> None:
        drawn.append((random.random(), np.random.rand(), torch.rand(2).tolist()))

    forward = ForwardPass.of(compute, (), {})
    compute()
    forward.repeat()
    assert drawn[0] == drawn[1]


def test_random_states_are_put_back_in_the_end() -> None:
    def compute(*_: Any) -> None:
        random.random()
        raise RuntimeError("a bug of the user")

    model, forward = Net(), ForwardPass.of(compute, (), {})
    for _ in range(3):
        random.random(), np.random.rand(), torch.rand(2)
    before = RandomStates.now()
    with pytest.raises(RuntimeError, match="a bug of the user"):
        first_bad_module(model, [forward])
    drawn = random.random(), np.random.rand(), torch.rand(2).tolist()
    before.restore()
    assert drawn == (random.random(), np.random.rand(), torch.rand(2).tolist())


def test_cuda_is_not_begun_for_its_random_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert RandomStates.now().cuda is None


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("by_keyword", [True, False])
def test_labels_that_are_popped_are_there_again(kind: Any, by_keyword: bool) -> None:
    seen: list[bool] = []

    def compute(model: nn.Module, inputs: Any) -> Any:
        seen.append("labels" in inputs)
        inputs.pop("labels")
        return model(**inputs)

    model, inputs = Net(), kind({"inputs": torch.ones(3, 4), "labels": torch.zeros(3)})
    args: tuple[Any, ...] = (model,) if by_keyword else (model, inputs)
    kwargs = {"inputs": inputs} if by_keyword else {}
    forward = ForwardPass.of(compute, args, kwargs)
    compute(*args, **kwargs)
    first_bad_module(model, [forward])
    assert seen == [True, True]


def test_a_repeated_pass_builds_no_graph() -> None:
    losses: list[Tensor] = []

    def compute(model: nn.Module, inputs: Any) -> Any:
        losses.append(model(**inputs))

    model = Net()
    first_bad_module(model, [kept(compute=compute, model=model)])
    assert not losses[0].requires_grad


def test_no_hook_is_left_after_an_error() -> None:
    def compute(*_: Any) -> None:
        raise RuntimeError("a bug of the user")

    model = Net()
    with pytest.raises(RuntimeError, match="a bug of the user"):
        first_bad_module(model, [ForwardPass.of(compute, (), {})])
    assert all(len(module._forward_hooks) == 0 for module in model.modules())


def test_running_statistics_are_as_after_the_first_pass() -> None:
    model = Net(nn.BatchNorm1d(4))
    forward = kept(model=model)
    compute_loss(model, forward.arguments[1])
    before = copy.deepcopy(model.state_dict())
    first_bad_module(model, [forward])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_buffers_that_cannot_be_written_are_no_error() -> None:
    model = Net()
    model.register_buffer("mask", torch.tensor([NAN]).expand(5))
    assert found_in(model, 1.0) is None


def test_parameters_of_fsdp2_are_sharded_afterwards() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = Net()
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model.last, mesh=mesh)
        fully_shard(model, mesh=mesh)
        before = [id(parameter) for parameter in model.parameters()]
        found_in(model, 1.0)
        assert [id(parameter) for parameter in model.parameters()] == before
    finally:
        dist.destroy_process_group()
