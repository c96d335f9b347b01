"""Outputs of modules and their gradients, collected by plain hooks as a reference."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

Collected = dict[tuple[str, int], list[Tensor]]


class CollectingTrainer(Trainer):
    """Stock's trainer with hooks that stay registered. They keep every output of some modules.

    Args:
        modules: Names of modules of the model that is given.
        pads: Whether positions that the `attention_mask` leaves out are collected too.

    Attributes:
        outputs: The outputs of each module at each step, in the order of execution.
        gradients: The gradients of these outputs, without the loss scale.
        repeated: How often a module was run outside of a forward pass, with a graph.
    """

    def __init__(self, modules: Sequence[str], pads: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outputs: Collected = defaultdict(list)
        self.gradients: Collected = defaultdict(list)
        self.repeated = 0
        self._is_forward = False
        self._pads = pads
        self._mask: Tensor | None = None
        found = dict(self.model.named_modules())
        for name in modules:
            found[name].register_forward_hook(
                lambda module, args, output, name=name: self._keep(name, output)
            )

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Keeps the outputs of the forward pass, but not those of a repeated one."""
        self._is_forward = model.training
        self._mask = None if self._pads else inputs.get("attention_mask")
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self._is_forward = False

    def _keep(self, name: str, output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        tensor = next(t for t in tensors if t.is_floating_point())
        key = name, self.state.global_step + 1
        mask = self._mask
        self.repeated += not self._is_forward and torch.is_grad_enabled()
        if self._is_forward:
            self.outputs[key].append(_kept(tensor, mask))
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: self._keep_gradient(key, gradient, mask))

    def _keep_gradient(self, key: tuple[str, int], gradient: Tensor, mask: Tensor | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler._scale)
        self.gradients[key].append(_kept(gradient, mask) / scale)


def _kept(tensor: Tensor, mask: Tensor | None) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    values = local.detach().to(torch.float64)
    if mask is not None and values.shape[:2] == mask.shape:
        values = values[mask != 0]
    return values.flatten().clone()


class Block(nn.Module):
    """Adds a layer's output to its input, and returns it in one of several forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        out = x + torch.tanh(self.layer(x))
        if self.form == "tuple":
            return torch.zeros(2, dtype=torch.int64), out, x.sum()
        if self.form == "mapping":
            return {"steps": torch.zeros(2, dtype=torch.int64), "hidden": out}
        return out


class OddLanguageModel(nn.Module):
    """Tied weights, a tuple, a mapping, an operation in place, a block twice, one never run."""

    def __init__(self, vocabulary: int = 64, runs_last: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(vocabulary, 8)
        forms = ("tuple", "tensor", "tensor", "mapping", "tensor", "tensor")
        self.layers = nn.ModuleList(Block(form) for form in forms)
        self.head = nn.Linear(8, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.runs_last = runs_last

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        _, x, _ = self.layers[0](self.embed(input_ids))
        x = self.layers[1](x)
        x.mul_(1.5)
        x = self.layers[2](self.layers[2](x))
        x = self.layers[3](x)["hidden"]
        if self.runs_last:
            x = self.layers[5](x)
        logits = self.head(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), input_ids.flatten())
        return {"loss": loss, "logits": logits}
