"""The loss scale: the number that float16 gradients are multiplied by."""

from typing import Any

import torch
from torch import Tensor

from tbtrainer.observers.deepspeed_engine import engine_loss_scale


def loss_scale_of(accelerator: Any, model: Any) -> Tensor | None:
    """Returns the current loss scale without waiting for the device.

    Args:
        accelerator: The `Accelerator` of a trainer that is training.
        model: The model as it is trained. Under DeepSpeed it is the engine.

    Returns:
        A scalar tensor; `None` if the gradients are not scaled.
    """
    scaler = getattr(accelerator, "scaler", None)
    if scaler is None:
        # accelerate makes no scaler for DeepSpeed (accelerate 1.3 to 1.15). Other models have no
        # optimizer.
        return engine_loss_scale(model)
    if not scaler.is_enabled():
        return None
    # `get_scale()` would wait for the device. `_scale` is seen in torch 2.4 to 2.13; before the
    # first backward pass it is `None`, and `get_scale()` returns the initial number.
    scale = getattr(scaler, "_scale", None)
    if isinstance(scale, Tensor):
        return scale
    return torch.tensor(scaler.get_scale(), dtype=torch.float64, device="cpu")
