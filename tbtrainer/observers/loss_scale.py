"""What float16 gradients are multiplied by while they are observed."""

from typing import Any

import torch
from torch import Tensor

from tbtrainer.observers.deepspeed_engine import engine_loss_scale


def loss_scale_of(trainer: Any, model: Any) -> Tensor | None:
    """Returns the loss scale without waiting for the device.

    Args:
        trainer: A `Trainer` in training.
        model: The model as it is trained; under DeepSpeed its engine.

    Returns:
        A scalar tensor, or `None` where gradients are not scaled.
    """
    if trainer.is_deepspeed_enabled:
        return engine_loss_scale(model)
    scaler = getattr(trainer.accelerator, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    # `get_scale()` would wait for the device. Seen in torch 2.4 to 2.13.
    scale = getattr(scaler, "_scale", None)
    if isinstance(scale, Tensor):
        return scale
    return torch.tensor(scaler.get_scale(), dtype=torch.float64, device="cpu")
