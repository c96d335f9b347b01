"""A bad step is not taken: what happens to gradients, training, report and random states."""

import copy
import gc
import logging
import pickle
import random
import weakref
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tbtrainer import NonFiniteError, TensorBoardArguments, step_guard
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.health_report import HealthReport
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.training import Training
from tbtrainer.records import JsonLine
from tbtrainer.step_findings import Findings
from tbtrainer.step_guard import StepGuard
from tbtrainer.steps import ObservedSteps

NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    """Two layers and dropout. Large inputs overflow in `power`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)
        self.power = Power()
        self.last = nn.Linear(2, 1)

    def forward(self, values: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.power(self.dropout(self.first(values)))
        loss = (self.last(hidden["values"]).squeeze(1) - labels).square().mean()
        return loss, hidden


class Power(nn.Module):
    """Returns a dictionary."""

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"values": values + (1e-3 * values.detach()) ** 9}


class Loop:
    """The part of a `Trainer` that its steps need.

    Args:
        action: `nonfinite_action`.
        model: `Net` if it is not given.
        scaler: Of float16.
        accumulation: Micro-batches per step.
    """

    is_deepspeed_enabled = False
    model_accepts_loss_kwargs = False
    compute_loss_func = None

    def __init__(
        self, action: str, model: nn.Module | None = None, scaler: Any = None, accumulation: int = 1
    ) -> None:
        torch.manual_seed(0)
        self.model = self.model_wrapped = Net() if model is None else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1)
        self.accelerator: Any = SimpleNamespace(sync_gradients=True, scaler=scaler)
        self.accumulation = accumulation
        self.state = SimpleNamespace(global_step=0, max_steps=4)
        self.control = SimpleNamespace(should_log=False, should_training_stop=False)
        self.callback_handler = SimpleNamespace(train_dataloader=None)
        self.args = SimpleNamespace(
            gradient_accumulation_steps=1, device=torch.device("cpu"), max_grad_norm=1.0
        )
        isolation = Isolation("warn")
        self.lines: list[dict[str, Any]] = []
        self.measurements = StepMeasurements(isolation)
        self.reports = HealthReports(self.measurements, lambda step: {"group_0": 0.1})
        self.observers = ObserverSet(
            [self.measurements, self.reports],
            self.write,
            writes=True,
            isolation=isolation,
            clock=Clock(),
        )
        guard = StepGuard(self, self.observers, self.measurements, self.reports)
        arguments = TensorBoardArguments(nonfinite_action=action)
        self.steps = ObservedSteps(self, arguments, self.observers, guard)

    def write(self, records: Any, step: int) -> None:
        self.lines += [dict(record.values) for record in records if isinstance(record, JsonLine)]

    def is_world_process_zero(self) -> bool:
        return True

    def compute_loss(
        self, model: nn.Module, inputs: Any, num_items_in_batch: int | None = None
    ) -> Tensor:
        labels = inputs.pop("labels")  # As a label smoother does.
        loss: Tensor = model(labels=labels, **inputs)[0]
        return loss

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: int | None = None
    ) -> Tensor:
        loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        loss = loss if self.model_accepts_loss_kwargs else loss / self.accumulation
        scaler = self.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss.detach()

    def begin(self, *values: float, items: int | None = None) -> None:
        """Takes a step up to the gradients, one micro-batch per value."""
        with self.steps.outermost_observed():
            for value in values:
                batch = {"values": torch.full((3, 2), value), "labels": torch.ones(3)}
                self.accelerator.sync_gradients = value is values[-1]
                self.training_step(self.model, batch, items)

    def step(self, *values: float) -> None:
        """Takes a step."""
        self.begin(*values)
        scaler = self.accelerator.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.steps.step_taken()

    def weights(self) -> dict[str, Any]:
        return copy.deepcopy(self.model.state_dict())

    def gradients(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.model.parameters()]


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def plant(loop: Loop, name: str, value: float) -> None:
    """Makes the gradient of a parameter bad, from now on."""
    parameter = loop.model.get_parameter(name)
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


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


# ---- Loss scale ----


def scaler_of(scale: float) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def test_an_overflow_is_let_through() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    before = loop.weights()
    plant(loop, "first.weight", INF)
    loop.step(1.0)
    assert not loop.control.should_training_stop
    assert same(before, loop.weights())
    assert loop.accelerator.scaler.get_scale() == 512.0


@pytest.mark.parametrize(("value", "scale"), [(NAN, 1024.0), (INF, 0.5)])
def test_bad_gradients_that_are_no_overflow_are_refused(value: float, scale: float) -> None:
    loop = Loop("stop", scaler=scaler_of(scale))
    plant(loop, "first.weight", value)
    loop.step(1.0)
    assert loop.control.should_training_stop


def test_gradients_of_nan_alone_can_be_an_overflow() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    for name, _ in loop.model.named_parameters():
        plant(loop, name, NAN)
    loop.step(1.0)
    assert not loop.control.should_training_stop


def test_an_overflow_on_another_rank_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    # This rank holds the parameters further down, whose gradients are NaN.
    def with_other_rank(found: Any) -> list[float]:
        other = Findings(last_row=99.0, last_bad_row=99.0, loss_scale=1024.0)
        return [max(pair) for pair in zip(found, astuple(other), strict=True)]

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    loop = Loop("stop", scaler=scaler_of(1024.0))
    plant(loop, "first.weight", NAN)
    loop.step(1.0)
    assert not loop.control.should_training_stop


@pytest.mark.parametrize("name", ["bad_loss", "bad_gradient"])
def test_what_another_rank_found_ends_the_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_other_rank(found: Any) -> list[float]:
        if len(found) == 2:  # The number of forward passes, which is equal.
            return list(found)
        other = Findings(**{name: 1.0})
        return [max(pair) for pair in zip(found, astuple(other), strict=True)]

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    loop = Loop("stop")
    loop.step(1.0)
    assert loop.control.should_training_stop


def test_ranks_with_different_forward_passes_repeat_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_other_rank(found: Any) -> list[float]:
        return [2.0, 0.0] if len(found) == 2 else list(found)

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    repeated: list[Any] = []
    monkeypatch.setattr(step_guard, "first_bad_module", lambda *args: repeated.append(args))
    loop = Loop("stop")
    plant(loop, "first.weight", NAN)
    loop.step(1.0)
    assert loop.control.should_training_stop
    assert repeated == []


def test_the_host_waits_once_per_good_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop("stop")
    loop.step(1.0)
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__"):
        method = getattr(Tensor, name)

        def call(tensor: Tensor, name: str = name, method: Any = method) -> Any:
            reads.append(name)
            return method(tensor)

        monkeypatch.setattr(Tensor, name, call)
    loop.begin(1.0)
    assert reads == ["tolist"]


def test_a_scaler_skips_a_refused_step() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    loop.step(1.0)
    before = loop.weights()
    loop.begin(NAN)
    gradients = loop.gradients()
    assert all(grad is not None and bool(grad.isnan().all()) for grad in gradients)
    loop.accelerator.scaler.step(loop.optimizer)
    assert same(before, loop.weights())


def test_sparse_gradients_under_a_scaler_are_discarded() -> None:
    model = nn.Embedding(4, 2, sparse=True)

    class Words(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **_: Any) -> Tensor:
            loss: Tensor = model(torch.tensor([1, 2])).sum() * NAN
            return loss

    loop = Words("stop", model=model, scaler=scaler_of(4.0))
    loop.begin(1.0)
    assert model.weight.grad is not None
    assert bool(model.weight.grad._values().isnan().all())


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


@pytest.mark.parametrize("is_described", [True, False])
def test_no_batch_is_kept_after_its_step(
    is_described: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Training:
        raise RuntimeError("no description")

    batches: list[Any] = []

    class Watching(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            return super().compute_loss(model, inputs, **kwargs)

    if not is_described:
        monkeypatch.setattr(Training, "of", fail)
    loop = Watching("stop")
    loop.step(1.0)
    gc.collect()
    assert [batch() for batch in batches] == [None]


def test_no_batch_is_kept_after_an_error_of_the_training() -> None:
    batches: list[Any] = []

    class Failing(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            raise MemoryError

    loop = Failing("stop")
    with pytest.raises(MemoryError):
        loop.begin(1.0)
    loop.steps.stop()
    gc.collect()
    assert [batch() for batch in batches] == [None]


# ---- Steps whose gradients are out of sight ----


class Unseen(Loop):
    """Takes its steps while accelerate says that gradients are still accumulated."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.accelerator.sync_gradients = False
        return super().training_step(*args, **kwargs)


def test_no_batch_of_an_unseen_step_is_kept() -> None:
    batches: list[Any] = []

    class Watching(Unseen):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            return super().compute_loss(model, inputs, **kwargs)

    loop = Watching("stop")
    loop.step(1.0)
    gc.collect()
    assert [batch() for batch in batches] == [None]


def test_an_action_without_effect_causes_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    loop = Unseen("stop")
    loop.step(1.0)
    loop.step(1.0)
    warnings = [r.getMessage() for r in caplog.records if "has no effect" in r.getMessage()]
    assert len(warnings) == 1
    assert "nonfinite_action='stop' has no effect on step 1" in warnings[0]


def test_seen_steps_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop("stop")
    loop.step(1.0)
    loop.steps.step_taken()  # As at the end of an epoch.
    assert caplog.records == []


# ---- The second forward pass ----


def test_the_module_that_overflows_is_named() -> None:
    loop = Loop("stop")
    loop.begin(1e20)
    (line,) = loop.lines
    assert (line["checked_forward"], line["first_module"]) == (True, "power")


def test_the_first_of_two_micro_batches_is_looked_at() -> None:
    loop = Loop("stop", accumulation=2)
    loop.begin(1e20, 1.0)
    (line,) = loop.lines
    assert (line["first_module"], line["cause"]) == ("power", "loss")


def test_random_states_are_put_back_after_a_refusal() -> None:
    class Drawing(Loop):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            drawn.append((random.random(), np.random.rand()))
            return super().compute_loss(*args, **kwargs)

    drawn: list[Any] = []
    after = []
    for action in ("log", "stop"):
        random.seed(1)
        np.random.seed(1)
        loop = Drawing(action)
        loop.begin(NAN)
        after.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert after[0] == after[1]
    # The second forward pass draws the numbers of the first one.
    assert drawn == [drawn[0]] * 3


def test_gradients_are_discarded_before_the_second_forward_pass() -> None:
    class Looking(Loop):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            had_gradients.append(any(grad is not None for grad in self.gradients()))
            return super().compute_loss(*args, **kwargs)

    had_gradients: list[bool] = []
    loop = Looking("stop", accumulation=2)
    loop.begin(1.0, NAN)
    assert had_gradients == [False, True, False, False]


def test_without_a_forward_pass_none_is_checked() -> None:
    class Own(Loop):
        def training_step(
            self, model: nn.Module, inputs: Any, num_items_in_batch: int | None = None
        ) -> Tensor:
            loss: Tensor = model(**inputs)[0]
            loss.backward()
            return loss.detach()

    loop = Own("stop")
    loop.begin(NAN)
    (line,) = loop.lines
    assert (line["checked_forward"], line["first_module"]) == (False, None)
    assert loop.control.should_training_stop


def test_a_second_forward_pass_that_fails_is_not_checked() -> None:
    class Once(Loop):
        calls = 0

        def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("not again")
            return super().compute_loss(*args, **kwargs)

    loop = Once("stop")
    loop.begin(NAN)
    assert loop.lines[0]["checked_forward"] is False
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
