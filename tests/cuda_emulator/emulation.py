"""The kernels of `cuda.cu`, compiled for the CPU, behind the driver and NVRTC of `emulator.cpp`."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tbtrainer.statistics.readers import choice
from tbtrainer.statistics.readers.cuda import CONSTANTS, DTYPES, SOURCE, CudaReader
from tbtrainer.statistics.readers.nvrtc import CompiledKernels
from tests.limits import HANG_SECONDS

# What the emulated device says it is, and its stream.
CAPABILITY = (9, 0)
STREAM = 1234


@functools.cache
def _directory() -> "tempfile.TemporaryDirectory[str]":
    """A directory that lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="tbtrainer-emulator-")


@functools.cache
def emulator(dtype: torch.dtype) -> ctypes.CDLL:
    """The library with the kernels of a dtype. Skips the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the CUDA kernels are run on the CPU by g++, which is not installed")
    library = Path(_directory().name) / f"{DTYPES[dtype]}.so"
    macros = {**CONSTANTS, "DTYPE": DTYPES[dtype], "SOURCE": f'"{SOURCE}"'}
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-shared"]
    command += ["-fPIC", "-w", *(f"-D{name}={value}" for name, value in macros.items())]
    command += [str(Path(__file__).with_name("emulator.cpp")), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class EmulatedKernels(dict[torch.dtype, CompiledKernels]):
    """The emulated kernels of each dtype, made when they are asked for."""

    def __missing__(self, dtype: torch.dtype) -> CompiledKernels:
        constants = {**CONSTANTS, "DTYPE": DTYPES[dtype]}
        self[dtype] = CompiledKernels(emulator(dtype), SOURCE.read_text(), constants)
        return self[dtype]


@functools.cache
def emulated_reader() -> CudaReader:
    """The reader, with the emulated kernels."""
    return CudaReader(EmulatedKernels())


@contextmanager
def emulation() -> Iterator[CudaReader]:
    """While on, `backend="kernel"` reads tensors in main memory with the emulated kernels."""
    reader = emulated_reader()
    stream = SimpleNamespace(cuda_stream=STREAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "_kernel_readers", lambda device_type: (reader,))
        patch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITY)
        patch.setattr(torch.cuda, "current_stream", lambda device: stream)
        yield reader
