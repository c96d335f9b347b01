"""What a device can compute, and how tensors are moved between devices."""

import torch
from torch import Tensor

_CPU = torch.device("cpu")


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64: Apple's MPS and some Intel GPUs do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def statistics_device(device: torch.device) -> torch.device:
    """Returns where the statistics of a device's tensors are kept.

    Sums and extremes are float64, so a device without float64 has its statistics in main memory.
    """
    return device if has_float64(device) else _CPU


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device, and waits only where the result could be read too early.

    A copy to an accelerator is ordered on its stream, like everything that reads it there. A
    non-blocking copy to main memory may still be in flight when NumPy reads it, so that one waits.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")
