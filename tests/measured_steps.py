"""Steps with known losses and gradients, measured without a training."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tbtrainer import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.step_facts import StepFacts, StepsReading
from tbtrainer.observers.step_measurements import StepMeasurements
from tests.gradients import CPU, Layers, set_gradients, table_of


def facts_of(step: int, **changes: Any) -> StepFacts:
    """A good step, with changes."""
    values: dict[str, Any] = {
        "loss": 1.0,
        "loss_spread": 0.0,
        "loss_rank": None,
        "grad_norm": 1.0,
        "looks_overflowed": False,
        "loss_scale": None,
        "was_skipped": False,
    }
    return StepFacts(step, **{**values, **changes})


def training_of(model: nn.Module, **changes: Any) -> Any:
    """What observers of steps read of a training."""
    values: dict[str, Any] = {
        "arguments": TensorBoardArguments(),
        "parameters": table_of(model),
        "max_grad_norm": 0.0,
        "device": CPU,
        "was_step_skipped": False,
    }
    return SimpleNamespace(**{**values, **changes})


class MeasuredSteps:
    """Takes steps of a model, and measures them.

    Args:
        model: `Layers` if it is not given.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = Layers() if model is None else model
        self.training = training_of(self.model)
        self.measurements = StepMeasurements(Isolation("raise"))
        self.measurements.run_begins(0, self.training)
        self.count = 0

    def take(
        self,
        loss: float | None = 1.0,
        gradient: float = 1.0,
        bad: dict[str, float] | None = None,
        loss_scale: Tensor | None = None,
        was_skipped: bool = False,
    ) -> None:
        """Takes a step.

        Args:
            loss: Of the step; `None` if there is none.
            gradient: The elements of all gradients.
            bad: The first element of the gradient of some parameters, by name.
            loss_scale: Of the gradients.
            was_skipped: Whether the scaler skips the step.
        """
        self.begin(loss, gradient, bad, loss_scale)
        self.training.was_step_skipped = was_skipped
        self.measurements.step_taken(self.count)

    def begin(
        self,
        loss: float | None = 1.0,
        gradient: float = 1.0,
        bad: dict[str, float] | None = None,
        loss_scale: Tensor | None = None,
    ) -> None:
        """Takes a step up to the gradients; see `take`."""
        self.count += 1
        set_gradients(self.model, gradient)
        parameters = dict(self.model.named_parameters())
        for name, value in (bad or {}).items():
            grad = parameters[name].grad
            assert grad is not None
            grad.view(-1)[0] = value
        if loss is not None:
            self.measurements.micro_batch_taken(self.count, torch.tensor(loss))
        gradients = Gradients(self.training.parameters.gradients(), loss_scale)
        self.measurements.gradients_ready(self.count, gradients)

    def log(self) -> StepsReading | None:
        """Ends the window, as at a logging step."""
        self.measurements.logging_step(self.count)
        return self.measurements.window

    def reading(self) -> StepsReading:
        """Ends the window, which has steps."""
        window = self.log()
        assert window is not None
        return window
