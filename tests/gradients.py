"""Models with known gradients, and the norms of them."""

import torch
from torch import Tensor, nn

from tbtrainer.isolation import Isolation
from tbtrainer.observers.gradient_norms import GradientNorms, GradientNormSummary
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


def norms_of(
    table: ParameterTable, detail: str = "block", max_norm: float = 0.0, errors: str = "raise"
) -> GradientNorms:
    return GradientNorms(table, detail, max_norm, CPU, Isolation(errors))


def set_gradients(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)


def summary_of(norms: GradientNorms) -> GradientNormSummary:
    summary = norms.summary()
    assert summary is not None
    return summary


class Unreadable(PlainAdapter):
    """Stands for a mode whose gradients lie in an unknown place."""

    def gradient_part(self, parameter: Tensor) -> Tensor:
        raise UnsupportedTensor("it is kept in another way")
