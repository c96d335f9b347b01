"""What a device can compute, and how tensors are moved between devices."""

import torch
from torch import Tensor

_CPU = torch.device("cpu")


def has_float64(device: torch.device) -> bool:
    """Returns whether the device computes in float64. Apple's MPS and some Intel GPUs do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def statistics_device(device: torch.device) -> torch.device:
    """Returns the device on which the statistics of a device's tensors are kept.

    Sums and extremes are float64. The statistics of a device without float64 are therefore kept in
    main memory.
    """
    return device if has_float64(device) else _CPU


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device, and waits for the copy only if it goes to main memory.

    A copy to an accelerator does not have to be waited for: whatever reads it there runs later on
    the same stream. A copy to main memory does: NumPy could read it before it is complete.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")
