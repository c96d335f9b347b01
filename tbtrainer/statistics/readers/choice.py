"""Chooses the reader of a tensor: compiled loops or NumPy in main memory, kernels, or PyTorch."""

import functools
import logging
from typing import Literal

import torch
from torch import Tensor

from tbtrainer.statistics.devices import has_float64
from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.cpu_compiled import CompiledCpuReader, load_library
from tbtrainer.statistics.readers.cuda import CudaReader
from tbtrainer.statistics.readers.host_copy import HostCopyReader
from tbtrainer.statistics.readers.pytorch import PytorchReader
from tbtrainer.statistics.readers.reader import Reader

logger = logging.getLogger(__name__)

Backend = Literal["auto", "plain", "kernel"]

_CPU_READER = CpuReader()
_HOST_COPY_READER = HostCopyReader()
_PYTORCH_READER = PytorchReader()
# Descriptions of the errors of compiled readers in this process, by the name of the reader. Such a
# reader is not used any more. The exceptions are not kept, because their frames keep tensors alive.
_kernel_failures: dict[str, str] = {}


def reader_of(tensor: Tensor, backend: Backend) -> Reader:
    """Returns the reader of a tensor.

    Args:
        tensor: A strided tensor that is not empty.
        backend: `"plain"`: PyTorch and NumPy only. `"kernel"`: kernels wherever they support the
            tensor; on the CPU Triton's interpreter runs them. `"auto"`: kernels on CUDA devices,
            and on the CPU the compiled reader if the installation built it; none of them after it
            has failed.

    Raises:
        ImportError: `backend` is `"kernel"`, and there are no kernels for the device.
    """
    if backend == "auto" and tensor.device.type == "cpu" and "C" not in _kernel_failures:
        return _compiled_cpu_reader() or _CPU_READER
    if backend == "kernel" or (backend == "auto" and tensor.device.type == "cuda"):
        readers = _kernel_readers(tensor.device.type)
        if not readers and backend == "kernel":
            raise ImportError("the kernels need the package triton")
        for reader in readers:
            has_failed = reader.name in _kernel_failures and backend == "auto"
            if not has_failed and reader.supports(tensor):
                return reader
    return plain_reader(tensor.device)


def plain_reader(device: torch.device) -> Reader:
    """Returns the reader that supports every measurable tensor of a device."""
    if device.type == "cpu":
        return _CPU_READER
    return _PYTORCH_READER if has_float64(device) else _HOST_COPY_READER


def give_up_kernels(reader: Reader, error: Exception) -> None:
    """Stops using a compiled reader in this process, because it failed."""
    if reader.name not in _kernel_failures:
        logger.warning(
            "The %s reader of tbtrainer failed (%s: %s). From now on another reader reads the "
            "tensors. The results are the same, at a higher cost.",
            reader.name,
            type(error).__name__,
            error,
        )
    _kernel_failures[reader.name] = f"{type(error).__name__}: {error}"


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
def _kernel_readers(device_type: str) -> tuple[Reader, ...]:
    """Returns the readers with kernels for a type of device, the fastest first."""
    found: list[Reader | None] = [CudaReader.of_this_process() if device_type == "cuda" else None]
    try:
        from tbtrainer.statistics.readers.kernels import KernelReader

        found.append(KernelReader())
    except ImportError:
        pass
    return tuple(reader for reader in found if reader is not None)
