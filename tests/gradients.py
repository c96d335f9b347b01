"""Models with known gradients, and the norms of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tbtrainer.isolation import Isolation
from tbtrainer.observers.gradient_norms import GradientNorms
from tbtrainer.observers.norm_summary import GradientNormSummary, NormGroups
from tbtrainer.observers.step_facts import StepsReading
from tbtrainer.sharding import ParameterTable, UnsupportedTensor, parameter_table
from tbtrainer.sharding.plain import PlainAdapter

CPU = torch.device("cpu")


class Layers(nn.Module):
    """Two blocks of two parameters, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


def table_of(model: nn.Module) -> ParameterTable:
    return parameter_table(model, is_world_process_zero=True)


class Norms:
    """The norms of a table's gradients, and their summary.

    Args:
        table: The parameters.
        detail: Which of them are shown together.
        max_norm: The norm that gradients are clipped to.
        errors: What an error does.
        device: Where the norms are kept.
    """

    def __init__(
        self,
        table: ParameterTable,
        detail: str = "block",
        max_norm: float = 0.0,
        errors: str = "raise",
        device: torch.device = CPU,
    ) -> None:
        self.norms = GradientNorms(table, device, Isolation(errors))
        self._groups = NormGroups(table.rows, detail)
        self._max_norm = max_norm
        self._step = 0

    def accumulate(
        self, gradients: Sequence[Tensor | None] | None, loss_scale: Tensor | None = None
    ) -> None:
        """Takes a step."""
        self._step += 1
        self.norms.accumulate(self._step, gradients, loss_scale)

    def read(self) -> StepsReading | None:
        """Reads the steps since the last reading."""
        return self.norms.read()

    def summary(self) -> GradientNormSummary | None:
        """Ends the window."""
        reading = self.read()
        if reading is None:
            return None
        return self._groups.summary(reading, self.norms.missing, self._max_norm)


def norms_of(
    table: ParameterTable, detail: str = "block", max_norm: float = 0.0, errors: str = "raise"
) -> Norms:
    return Norms(table, detail, max_norm, errors)


def set_gradients(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)


def summary_of(norms: Norms) -> GradientNormSummary:
    summary = norms.summary()
    assert summary is not None
    return summary


class Unreadable(PlainAdapter):
    """Stands for a mode whose gradients lie in an unknown place."""

    def gradient_part(self, parameter: Tensor) -> Tensor:
        raise UnsupportedTensor("it is kept in another way")
