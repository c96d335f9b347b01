"""Activations reach the same collectives on every rank, whatever happens on one of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tbtrainer import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers import activations as module
from tbtrainer.observers import watched_tensors
from tbtrainer.observers.activations import Activations
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.statistics import StreamedTensors
from tests.counted_reduction import CountedReduction

CPU = torch.device("cpu")
LOSS = torch.zeros(())
BOTH = [("extremes", True), ("counts", True)]
NOTHING = [("extremes", False), ("counts", False)]


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def observer(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> Activations:
    """An observer that has begun a training on one of several ranks."""
    monkeypatch.setattr(watched_tensors, "AllRanks", CountedReduction)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    made = Activations(Clock(), Isolation("warn"))
    made.run_begins(0, training_of(model))
    return made


def answers(is_same: bool, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Makes the ranks have the same modules, or others; returns what they were asked about."""
    asked: list[object] = []

    class Answer:
        def __init__(self, described: object) -> None:
            self.described = described

        def is_same(self) -> bool:
            asked.append(self.described)
            return is_same

    monkeypatch.setattr(module, "Comparison", Answer)
    return asked


def training_of(model: nn.Module) -> Any:
    return SimpleNamespace(
        arguments=TensorBoardArguments(histogram_targets=["activations"]),
        accelerator=None,
        model=model,
        unwrapped_model=model,
        schedule=SnapshotSchedule(every=2, last=10),
        device=CPU,
        is_world_process_zero=True,
        snapshot_readers=[],
    )


def step(observer: Activations, model: nn.Module, number: int) -> Any:
    """Takes a step; returns the records."""
    observer.forward_begins(number)
    model(torch.ones(4, 3)).sum().backward()
    observer.micro_batch_taken(number, LOSS)
    observer.gradients_ready(number, None)
    return observer.step_taken(number)


def reached(observer: Activations) -> list[tuple[str, bool]]:
    assert observer._watched is not None
    assert isinstance(observer._watched.reduction, CountedReduction)
    return observer._watched.reduction.reached


def test_a_due_step_reaches_both_reductions(observer: Activations, model: nn.Module) -> None:
    assert len(step(observer, model, 2)) == 1
    assert reached(observer) == BOTH


def test_a_step_that_is_not_due_reaches_no_reduction(
    observer: Activations, model: nn.Module
) -> None:
    assert step(observer, model, 3) == []
    assert reached(observer) == []


def test_a_step_without_a_forward_pass_reaches_both_reductions(observer: Activations) -> None:
    assert observer.step_taken(2) == []
    assert reached(observer) == NOTHING


def test_an_output_that_fails_reaches_both_reductions(
    observer: Activations,
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(StreamedTensors, "add", fail)
    assert step(observer, model, 2) == []
    assert reached(observer) == NOTHING
    assert len([r for r in caplog.records if "no memory" in r.getMessage()]) == 1


def test_ranks_with_other_modules_reach_no_reduction(
    observer: Activations,
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = answers(False, monkeypatch)
    observer.run_begins(0, training_of(model))
    for number in (2, 4):
        assert step(observer, model, number) == []
    assert asked == [("0", "2")]
    assert reached(observer) == []
    (message,) = [r.getMessage() for r in caplog.records]
    assert "activations are not shown, because the ranks have different modules" in message


def test_the_ranks_agree_also_without_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(True, monkeypatch)
    made = Activations(Clock(), Isolation("warn"))
    made.run_begins(0, training_of(nn.ModuleDict({"only": nn.Linear(2, 2)})))
    assert made.step_taken(2) == []
    assert asked == [()]


def test_closing_removes_hooks_of_a_step_that_broke_off(
    observer: Activations, model: nn.Module
) -> None:
    observer.forward_begins(2)
    assert any(inner._forward_hooks for inner in model.modules())
    observer.close()
    assert not any(inner._forward_hooks for inner in model.modules())
    assert not model._forward_pre_hooks
