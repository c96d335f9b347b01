"""LoRA adapters for the model of odd sizes."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def with_lora(model: nn.Module) -> nn.Module:
    """Adds adapters of odd sizes beside frozen weights."""
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["up", "down"], r=3))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # Zeros would hide a mistake.
            nn.init.normal_(parameter)
    return wrapped
