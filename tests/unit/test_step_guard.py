"""A bad step is not taken: what happens to gradients, training and report."""

import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer import NonFiniteError, step_guard
from tbtrainer.observers.health_report import HealthReport
from tests.guarded_loop import NAN, Loop, plant, same

# ---- Log ----


def test_log_keeps_nothing_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(step_guard.ForwardPass, "of", lambda *facts: kept.append(facts))
    loop = Loop("log")
    loop.step(1.0)
    assert kept == []


def test_log_lets_a_bad_step_through() -> None:
    loop = Loop("log")
    loop.step(NAN)
    assert not loop.control.should_training_stop
    assert loop.lines == []


# ---- Stop ----


def test_good_steps_are_taken_as_without_a_guard() -> None:
    weights = []
    for action in ("log", "stop", "raise"):
        loop = Loop(action)
        for _ in range(3):
            loop.step(1.0)
        weights.append(loop.weights())
    assert same(weights[0], weights[1])
    assert same(weights[0], weights[2])


@pytest.mark.parametrize("name", ["first.weight", "last.bias"])
def test_stop_keeps_the_weights_of_the_last_good_step(name: str) -> None:
    loop = Loop("stop")
    loop.step(1.0)
    before = loop.weights()
    plant(loop, name, NAN)
    loop.begin(1.0)
    assert loop.gradients() == [None] * 4
    loop.optimizer.step()
    assert same(before, loop.weights())
    assert loop.control.should_training_stop
    (line,) = loop.lines
    assert (line["bad_step"], line["action"]) == (2, "stop")
    assert line["bad_gradients"] == (name,)
    assert (line["checked_forward"], line["first_module"]) == (True, None)


def test_a_bad_loss_without_bad_gradients_is_refused() -> None:
    class Detached(Loop):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().compute_loss(*args, **kwargs) + NAN

    loop = Detached("stop")
    loop.begin(1.0)
    assert loop.control.should_training_stop
    assert loop.lines[0]["cause"] == "loss"


def test_a_bad_loss_whose_memory_is_used_again_is_refused() -> None:
    losses: list[Tensor] = []

    class Compiled(Loop):
        """Writes each loss over the one before it, as CUDA graphs do."""

        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().compute_loss(*args, **kwargs)
            if losses:
                losses[0].data.fill_(1.0)
            losses.append(loss if losses else loss + NAN)
            return losses[-1]

    loop = Compiled("stop")
    loop.begin(1.0, 2.0)
    assert loop.control.should_training_stop


def test_parameters_of_the_optimizer_alone_are_kept_too() -> None:
    loop = Loop("stop")
    extra = nn.Parameter(torch.ones(2))
    loop.optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones(2)
    loop.begin(NAN)
    loop.optimizer.step()
    assert extra.tolist() == [1.0, 1.0]


def test_a_refused_step_is_reported_once() -> None:
    loop = Loop("stop")
    loop.step(1.0)
    loop.control.should_log = True
    loop.step(NAN)
    assert [line["bad_step"] for line in loop.lines] == [2]


# ---- Raise ----


def test_raise_gives_the_report() -> None:
    loop = Loop("raise")
    loop.step(1.0)
    before = loop.weights()
    with pytest.raises(NonFiniteError, match="The loss itself was not finite at step 2") as raised:
        loop.begin(NAN)
    assert raised.value.report == loop.lines[0]
    assert raised.value.report["action"] == "raise"
    assert same(before, loop.weights())
    assert pickle.loads(pickle.dumps(raised.value)).report["bad_step"] == 2


def test_raise_never_gives_an_earlier_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no report")

    loop = Loop("raise")
    loop.step(1.0)
    loop.reports.reported(HealthReport("evaluation", 1, batches=1, applied=False))
    monkeypatch.setattr(loop.reports, "step_refused", fail)
    with pytest.raises(NonFiniteError) as raised:
        loop.begin(NAN)
    assert raised.value.report == {"message": "A loss or a gradient of step 2 was not finite."}


def test_stop_without_a_report_causes_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no report")

    loop = Loop("stop")
    loop.step(1.0)
    monkeypatch.setattr(loop.reports, "step_refused", fail)
    loop.begin(NAN)
    assert caplog.messages[-1] == (
        "nonfinite_action='stop' ended the training: A loss or a gradient of step 2 was not finite."
    )


# ---- Isolation ----


def test_a_look_that_fails_lets_the_step_through(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Tensor:
        raise RuntimeError("no norms")

    loop = Loop("stop")
    loop.step(1.0)
    assert loop.measurements.norms is not None
    monkeypatch.setattr(loop.measurements.norms, "newest", fail)
    with caplog.at_level(logging.WARNING):
        loop.step(NAN)
        loop.step(NAN)
    assert not loop.control.should_training_stop
    (message,) = caplog.messages
    assert "could not look for values that are not finite: RuntimeError: no norms" in message


def test_without_gradients_the_loss_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Tensor:
        raise RuntimeError("no gradients")

    monkeypatch.setattr("tbtrainer.steps.loss_scale_of", fail)
    loop = Loop("stop")
    loop.step(1.0)
    assert not loop.control.should_training_stop
    loop.step(NAN)
    assert loop.control.should_training_stop


# ---- The loss ----


@pytest.mark.parametrize(
    ("changes", "items", "expected"),
    [
        ({}, None, 2.0),
        ({}, 6, 2.0),
        ({"model_accepts_loss_kwargs": True}, None, 2.0),
        ({"model_accepts_loss_kwargs": True}, 6, 4.0),
        ({"compute_loss_func": abs}, None, 4.0),
        ({"loss_is_scaled_for_ga": True}, None, 4.0),
        ({"loss_is_scaled_for_ga": False, "model_accepts_loss_kwargs": True}, 6, 2.0),
    ],
)
def test_losses_are_added_up_as_the_trainer_does(
    changes: dict[str, Any], items: int | None, expected: float
) -> None:
    class Known(Loop):
        def compute_loss(
            self, model: nn.Module, inputs: Any, num_items_in_batch: int | None = None
        ) -> Tensor:
            return super().compute_loss(model, inputs) * 0 + float(inputs["values"][0, 0])

    loop = Known("stop")
    for name, value in changes.items():
        setattr(loop, name, value)
    plant(loop, "first.weight", NAN)
    loop.begin(1.0, 3.0, items=items)
    assert loop.lines[0]["loss"] == expected
