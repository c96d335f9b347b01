"""Which code reads a tensor: NumPy in main memory, fused kernels, or plain PyTorch elsewhere."""

import functools
import logging
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from tbtrainer.statistics.readers import cpu, pytorch

logger = logging.getLogger(__name__)

Backend = Literal["auto", "plain", "kernel"]
# The first failure of a kernel, after which nobody tries another in this process.
_failures: list[Exception] = []


def reader_of(tensor: Tensor, backend: Backend) -> ModuleType:
    """Returns the module that reads a tensor.

    Args:
        tensor: Strided.
        backend: `"plain"` for PyTorch and NumPy alone; `"kernel"` for the kernels wherever they
            serve, on the CPU too, where Triton's interpreter runs them; `"auto"` for the kernels
            where they are faster: on CUDA devices, while none has failed.
    """
    wanted = backend == "kernel" or (
        backend == "auto" and tensor.device.type == "cuda" and not _failures
    )
    kernel = _kernel() if wanted else None
    if kernel is None and backend == "kernel":
        raise ImportError("the kernels need the package triton")
    if kernel is not None and kernel.serves(tensor):
        return kernel
    return plain_reader(tensor.device)


def plain_reader(device: torch.device) -> ModuleType:
    """Returns the module that reads any tensor of a device."""
    return cpu if device.type == "cpu" else pytorch


def give_up_kernels(error: Exception) -> None:
    """Says once that the kernels are not used any more: no compiler, an old card, a bug."""
    if not _failures:
        _failures.append(error)
        logger.warning(
            "tbtrainer's Triton kernels failed (%s: %s); plain PyTorch takes their place, with the "
            "same results at a higher cost.",
            type(error).__name__,
            error,
        )


@functools.cache
def _kernel() -> ModuleType | None:
    try:
        from tbtrainer.statistics.readers import kernels
    except ImportError:
        return None
    return kernels
