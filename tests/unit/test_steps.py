"""When observers are called during the steps of a training loop, with a stand-in for the loop."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer import Observer, TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.training import Training
from tbtrainer.records import Records
from tbtrainer.step_guard import StepGuard
from tbtrainer.steps import ObservedSteps


class Calls(Observer):
    """Keeps the name and the step of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def run_begins(self, step: int, training: Training) -> None:
        self.calls.append(("run_begins", step))

    def micro_batch_taken(self, step: int, loss: Tensor) -> None:
        self.calls.append(("micro_batch_taken", step))

    def gradients_ready(self, step: int, gradients: Gradients | None) -> None:
        shown = "gradients_ready" if gradients is not None else "no gradients"
        self.calls.append((shown, step))

    def step_taken(self, step: int) -> None:
        self.calls.append(("step_taken", step))

    def logging_step(self, step: int) -> None:
        self.calls.append(("logging_step", step))

    def run_ends(self, step: int) -> None:
        self.calls.append(("run_ends", step))

    def close(self) -> None:
        self.calls.append(("close", -1))


class Loop:
    """The part of a `Trainer` that its steps need, for one linear layer."""

    is_deepspeed_enabled = False

    def __init__(self) -> None:
        self.model = self.model_wrapped = nn.Linear(2, 1)
        self.state = SimpleNamespace(global_step=0, max_steps=4)
        self.control = SimpleNamespace(should_log=False, should_training_stop=False)
        self.optimizer = None
        self.accelerator = SimpleNamespace(sync_gradients=True)
        self.callback_handler = SimpleNamespace(train_dataloader=None)
        self.args = SimpleNamespace(
            gradient_accumulation_steps=1, device=torch.device("cpu"), max_grad_norm=1.0
        )

    def is_world_process_zero(self) -> bool:
        return True

    def training_step(self, model: nn.Module, inputs: Tensor) -> Tensor:
        loss: Tensor = model(inputs).sum()
        loss.backward()
        return loss.detach()


def guard_of(loop: Loop, observers: ObserverSet) -> StepGuard:
    measurements = StepMeasurements(Isolation("raise"))
    reports = HealthReports(measurements, lambda step: {})
    return StepGuard(loop, observers, measurements, reports)


def observed(loop: Loop, action: str = "raise") -> tuple[Calls, ObservedSteps]:
    observer = Calls()

    def write(records: Any, step: int) -> None:
        assert list(records) == []

    observers = ObserverSet(
        [observer], write, writes=True, isolation=Isolation(action), clock=Clock()
    )
    return observer, ObservedSteps(
        loop, TensorBoardArguments(), observers, guard_of(loop, observers)
    )


def take(loop: Loop, steps: ObservedSteps, is_last_micro_batch: bool = True) -> None:
    loop.accelerator.sync_gradients = is_last_micro_batch
    steps.observed_step(loop.training_step, loop.model, torch.ones(3, 2))


def test_gradients_are_shown_after_the_last_micro_batch() -> None:
    loop = Loop()
    observer, steps = observed(loop)
    take(loop, steps, is_last_micro_batch=False)
    take(loop, steps)
    assert observer.calls == [
        ("run_begins", 0),
        ("micro_batch_taken", 1),
        ("micro_batch_taken", 1),
        ("gradients_ready", 1),
    ]


def test_a_step_inside_a_step_is_observed_once() -> None:
    loop = Loop()
    observer, steps = observed(loop)

    def outer(model: nn.Module, inputs: Tensor) -> Tensor:
        return steps.observed_step(loop.training_step, model, inputs)

    steps.observed_step(outer, loop.model, torch.ones(3, 2))
    assert [moment for moment, _ in observer.calls].count("micro_batch_taken") == 1
    assert [moment for moment, _ in observer.calls].count("gradients_ready") == 1


def test_a_step_that_raises_shows_nothing_and_stops_no_other() -> None:
    loop = Loop()
    observer, steps = observed(loop)

    def fails(model: nn.Module) -> Tensor:
        raise KeyError("a bug of the user")

    with pytest.raises(KeyError, match="a bug of the user"):
        steps.observed_step(fails, loop.model)
    take(loop, steps)
    moments = [moment for moment, _ in observer.calls]
    assert moments == ["run_begins", "micro_batch_taken", "gradients_ready"]


@pytest.mark.parametrize("should_log", [True, False])
def test_a_logging_step_is_one_at_which_the_trainer_logs(should_log: bool) -> None:
    loop = Loop()
    observer, steps = observed(loop)
    take(loop, steps)
    loop.state.global_step = 1
    loop.control.should_log = should_log
    steps.step_taken()
    logged = [("logging_step", 1)] if should_log else []
    assert observer.calls[-1 - len(logged) :] == [("step_taken", 1), *logged]


@pytest.mark.parametrize("is_last", [True, False])
def test_the_run_ends_when_no_step_follows(is_last: bool) -> None:
    loop = Loop()
    observer, steps = observed(loop)
    take(loop, steps)
    loop.control.should_training_stop = is_last
    steps.end_run_if_last_step()
    assert (("run_ends", 0) in observer.calls) == is_last


def test_gradients_that_cannot_be_read_are_shown_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*facts: Any) -> Records:
        raise RuntimeError("no memory")

    loop = Loop()
    observer, steps = observed(loop, action="warn")
    monkeypatch.setattr("tbtrainer.steps.loss_scale_of", fail)
    take(loop, steps)
    assert observer.calls[-1] == ("no gradients", 1)


def test_the_wrapper_of_the_instance_is_removed_in_the_end() -> None:
    loop = Loop()
    observer, steps = observed(loop)
    with pytest.raises(KeyError), steps.outermost_observed():
        loop.training_step(loop.model, torch.ones(3, 2))
        raise KeyError
    assert ("micro_batch_taken", 1) in observer.calls
    assert "training_step" not in vars(loop)


def test_another_model_begins_another_training() -> None:
    loop = Loop()
    observer, steps = observed(loop)
    take(loop, steps)
    loop.model = nn.Linear(2, 1)
    take(loop, steps)
    moments = [moment for moment, _ in observer.calls]
    assert moments.count("run_begins") == 2
    assert moments.index("close") < len(moments) - 1 - moments[::-1].index("run_begins")


def test_a_loop_without_training_step_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    observer, steps = observed(loop)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            loop.state.global_step = step
            steps.step_taken()
    assert [step for moment, step in observer.calls if moment == "step_taken"] == [1, 2, 3]
    (message,) = caplog.messages
    assert "the training loop of Loop does not call" in message
