import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tbtrainer.observers.deepspeed_engine import engine_loss_scale, observed_engine_step


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
    with observed_engine_step(engine, lambda: engine.calls.append("observed") or True):
        engine.step()
    assert engine.calls == ["observed", "step None"]


def test_the_step_keeps_its_arguments_and_result() -> None:
    engine = Engine()
    with observed_engine_step(engine, lambda: True):
        assert engine.step(lr_kwargs=3) == "stepped"
    assert engine.calls == ["step 3"]


def test_micro_batches_are_not_observed() -> None:
    engine = Engine(boundary=False)
    with observed_engine_step(engine, lambda: engine.calls.append("observed") or True):
        engine.step()
    assert engine.calls == ["step None"]


def test_a_refused_step_is_not_taken() -> None:
    engine = Engine()
    with observed_engine_step(engine, lambda: False):
        engine.step()
    assert engine.calls == []


def test_the_engine_is_afterwards_as_it_was() -> None:
    engine = Engine()
    before = dict(vars(engine))
    with observed_engine_step(engine, lambda: True):
        pass
    assert vars(engine) == before


def test_the_engine_is_restored_when_the_training_fails() -> None:
    engine = Engine()
    with pytest.raises(KeyboardInterrupt), observed_engine_step(engine, lambda: True):
        raise KeyboardInterrupt
    assert "step" not in vars(engine)


def test_a_step_that_another_library_had_wrapped_is_put_back() -> None:
    engine = Engine()

    def wrapped_by_another() -> None:
        engine.calls.append("another")

    engine.step = wrapped_by_another
    with observed_engine_step(engine, lambda: True):
        engine.step()
    assert engine.step is wrapped_by_another
    assert engine.calls == ["another"]


def test_an_unknown_engine_is_said_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = SimpleNamespace()
    with caplog.at_level(logging.WARNING), observed_engine_step(engine, lambda: True):
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
