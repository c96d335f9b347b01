"""Floating-point operations that a token costs in training, from the shapes of the model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tbtrainer.sharding import ParameterTable


@dataclass(frozen=True)
class ModelFlops:
    """Operations of forward and backward pass.

    Attributes:
        per_token: For one token, without attention.
        per_position: For one token and each position of its sequence: attention.
    """

    per_token: float
    per_position: float

    def of_token(self, sequence_length: float) -> float:
        """Returns the operations for one token of a sequence of some length, in tokens."""
        return self.per_token + self.per_position * sequence_length


def model_flops(model: nn.Module, parameters: ParameterTable) -> ModelFlops | None:
    """Returns what a token costs, or `None` if the formula does not hold for the model.

    Each weight costs 2 operations in the forward pass, 2 for the gradient that flows through it,
    and 2 for its own gradient: 6 if it is trained, 4 if it is frozen and a trained weight comes
    before it, and 2 if it is frozen and none does. Attention adds 12 · layers · heads · head size
    per position of the sequence (A. Chowdhery et al., PaLM, 2022, appendix B). An embedding is
    looked up and not multiplied, so it costs nothing unless it is also the output layer. Recomputed
    activations do not count.

    Args:
        model: As it was given to the trainer.
        parameters: All of its parameters, in forward order.

    Returns:
        `None` for an encoder with a decoder, because a token passes through one of them only; for
        several models in one, such as image and text; for a mixture of experts; for weights whose
        number of elements is not known, such as quantised ones; and without sizes in the model's
        `config`.
    """
    config = getattr(model, "config", None)
    if config is None or _has_other_costs(config):
        return None
    layers = _size(config, ("num_hidden_layers", "n_layer", "num_layers"))
    hidden = _size(config, ("hidden_size", "n_embd", "d_model"))
    weights = _flops_of_weights(model, parameters)
    if layers is None or hidden is None or weights is None:
        return None
    heads, of_head = _size(config, ("num_attention_heads",)), _size(config, ("head_dim",))
    width = heads * of_head if heads is not None and of_head is not None else hidden
    return ModelFlops(per_token=weights, per_position=12.0 * layers * width)


def compute_dtype(accelerator: Any, parameters: ParameterTable, tf32: bool | None) -> str:
    """Returns what the factors of matrix products are.

    Args:
        accelerator: Of the trainer. Its `mixed_precision` is what autocast and DeepSpeed use.
        parameters: Of the model.
        tf32: `TrainingArguments.tf32`.

    Returns:
        `"bfloat16"`, `"float16"`, `"tf32"`, `"float32"`, or another name, such as `"fp8"`.
    """
    mixed = str(getattr(accelerator, "mixed_precision", "no"))
    if mixed != "no":
        return {"bf16": "bfloat16", "fp16": "float16"}.get(mixed, mixed)
    dtypes = [row.parameter.dtype for row in parameters.rows if row.parameter.is_floating_point()]
    dtype = max(set(dtypes), key=dtypes.count, default=torch.float32)
    if dtype is not torch.float32:
        return str(dtype).removeprefix("torch.")
    uses_tf32 = tf32 or torch.get_float32_matmul_precision() != "highest"
    return "tf32" if uses_tf32 else "float32"


def _flops_of_weights(model: nn.Module, parameters: ParameterTable) -> float | None:
    looked_up = _only_looked_up(model)
    total, gradients_flow = 0.0, False
    for row in parameters.rows:
        is_trained = row.parameter.requires_grad
        gradients_flow = gradients_flow or is_trained
        if id(row.parameter) in looked_up:
            continue
        # A quantised weight is packed. A flat parameter of FSDP1 has embeddings in it.
        is_flat = row.name.endswith("_flat_param")
        if row.global_count is None or is_flat or not row.parameter.is_floating_point():
            return None
        total += (6 if is_trained else 4 if gradients_flow else 2) * row.global_count
    return None if parameters.refused else total


def _has_other_costs(config: Any) -> bool:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    experts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    is_mixture = _size(config, experts) not in (None, 1)
    return bool(getattr(config, "is_encoder_decoder", False)) or is_mixture or text is not config


def _size(config: Any, names: Iterable[str]) -> int | None:
    for name in names:
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def _only_looked_up(model: nn.Module) -> set[int]:
    """Returns the identities of embedding weights that are in no matrix product."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    tied = getattr(output, "weight", None)
    return {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not tied
    }
