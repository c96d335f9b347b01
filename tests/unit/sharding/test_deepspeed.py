import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.observers.deepspeed_engine import engine_loss_scale, observed_engine_step
from tbtrainer.sharding import NotServed, deepspeed
from tbtrainer.sharding.deepspeed import PartitionedGradientsAdapter, Zero3Adapter


class Engine:
    """What DeepSpeed's engine offers to an observer."""

    def __init__(self, boundary: bool = True) -> None:
        self.boundary = boundary
        self.calls: list[str] = []

    def is_gradient_accumulation_boundary(self) -> bool:
        return self.boundary

    def step(self, lr_kwargs: Any = None) -> str:
        self.calls.append(f"step {lr_kwargs}")
        return "stepped"


def test_gradients_are_observed_before_the_step() -> None:
    engine = Engine()
    with observed_engine_step(engine, lambda: engine.calls.append("observed")):
        engine.step()
    assert engine.calls == ["observed", "step None"]


def test_the_step_keeps_its_arguments_and_result() -> None:
    engine = Engine()
    with observed_engine_step(engine, lambda: None):
        assert engine.step(lr_kwargs=3) == "stepped"
    assert engine.calls == ["step 3"]


def test_micro_batches_are_not_observed() -> None:
    engine = Engine(boundary=False)
    with observed_engine_step(engine, lambda: engine.calls.append("observed")):
        engine.step()
    assert engine.calls == ["step None"]


def test_the_engine_is_afterwards_as_it_was() -> None:
    engine = Engine()
    before = dict(vars(engine))
    with observed_engine_step(engine, lambda: None):
        pass
    assert vars(engine) == before


def test_the_engine_is_restored_when_the_training_fails() -> None:
    engine = Engine()
    with pytest.raises(KeyboardInterrupt), observed_engine_step(engine, lambda: None):
        raise KeyboardInterrupt
    assert "step" not in vars(engine)


def test_a_step_that_another_library_had_wrapped_is_put_back() -> None:
    engine = Engine()

    def wrapped_by_another() -> None:
        engine.calls.append("another")

    engine.step = wrapped_by_another
    with observed_engine_step(engine, lambda: None):
        engine.step()
    assert engine.step is wrapped_by_another
    assert engine.calls == ["another"]


def test_an_unknown_engine_is_said_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = SimpleNamespace()
    with caplog.at_level(logging.WARNING), observed_engine_step(engine, lambda: None):
        pass
    assert vars(engine) == {}
    assert "SimpleNamespace" in caplog.text


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [
        (SimpleNamespace(loss_scale=1024.0), 1024.0),
        (SimpleNamespace(loss_scale_config=SimpleNamespace(cur_scale=100)), 100.0),
        (SimpleNamespace(loss_scale=1.0), None),
        (SimpleNamespace(), None),
        (None, None),
    ],
)
def test_the_loss_scale_is_found_where_there_is_one(optimizer: Any, scale: float | None) -> None:
    found = engine_loss_scale(SimpleNamespace(optimizer=optimizer))
    assert (None if found is None else found.item()) == scale


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
            parts.append(Zero3Adapter().parameter_part(parameter))
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
    with pytest.raises(NotServed, match="another size"):
        gradient_part(fragment_of(torch.arange(3.0), 4, 2))


def test_a_rank_without_a_fragment_has_no_part() -> None:
    parameter: Any = torch.nn.Parameter(torch.zeros(2))
    parameter._hp_mapping = None
    assert gradient_part(parameter) is None
