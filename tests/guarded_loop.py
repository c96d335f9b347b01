"""A loop of steps that a guard checks, in place of a `Trainer`'s."""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tbtrainer import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.records import JsonLine
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


def scaler_of(scale: float) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)
