"""Chooses the reader of a tensor: compiled loops, Triton kernels, NumPy, or plain PyTorch."""

import functools
import logging
from typing import Literal

import torch
from torch import Tensor

from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.cpu_compiled import CompiledCpuReader, load_library
from tbtrainer.statistics.readers.host_copy import HostCopyReader
from tbtrainer.statistics.readers.pytorch import PytorchReader
from tbtrainer.statistics.readers.reader import Reader

logger = logging.getLogger(__name__)

Backend = Literal["auto", "plain", "kernel"]

_CPU_READER = CpuReader()
_HOST_COPY_READER = HostCopyReader()
_PYTORCH_READER = PytorchReader()
# Descriptions of the errors of compiled readers in this process. If there is one, they are not used
# any more. The exceptions are not kept, because their frames keep tensors alive.
_kernel_failures: list[str] = []


def reader_of(tensor: Tensor, backend: Backend) -> Reader:
    """Returns the reader of a tensor.

    Args:
        tensor: A strided tensor that is not empty.
        backend: `"plain"`: PyTorch and NumPy only. `"kernel"`: the kernels wherever they support
            the tensor; on the CPU Triton's interpreter runs them. `"auto"`: as long as none of them
            has failed, the kernels on CUDA devices, and on the CPU the compiled reader if the
            installation built it.

    Raises:
        ImportError: `backend` is `"kernel"` and Triton is not installed.
    """
    if backend == "auto" and tensor.device.type == "cpu" and not _kernel_failures:
        return _compiled_cpu_reader() or _CPU_READER
    wanted = backend == "kernel" or (
        backend == "auto" and tensor.device.type == "cuda" and not _kernel_failures
    )
    kernels = _kernel_reader() if wanted else None
    if kernels is None and backend == "kernel":
        raise ImportError("the kernels need the package triton")
    if kernels is not None and kernels.supports(tensor):
        return kernels
    return plain_reader(tensor.device)


def plain_reader(device: torch.device) -> Reader:
    """Returns the reader that supports every measurable tensor of a device."""
    if device.type == "cpu":
        return _CPU_READER
    return _PYTORCH_READER if has_float64(device) else _HOST_COPY_READER


def give_up_kernels(error: Exception) -> None:
    """Stops using kernels and the compiled reader in this process, because one of them failed."""
    if not _kernel_failures:
        logger.warning(
            "A compiled reader of tbtrainer failed (%s: %s). From now on PyTorch and NumPy read "
            "the tensors. The results are the same, at a higher cost.",
            type(error).__name__,
            error,
        )
    _kernel_failures.append(f"{type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error is an out-of-memory error, on the host or on a device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # Triton raises a plain RuntimeError when a launch runs out of memory.
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


@functools.cache
def _compiled_cpu_reader() -> Reader | None:
    library = load_library()
    return None if library is None else CompiledCpuReader(library)


@functools.cache
def _kernel_reader() -> Reader | None:
    try:
        from tbtrainer.statistics.readers.kernels import KernelReader
    except ImportError:
        return None
    return KernelReader()
