"""What is asked of NVRTC and of the CUDA driver, and what an error of theirs looks like."""

import ctypes
from collections.abc import Iterator

import pytest
import torch

from tbtrainer.statistics.readers.chunks import chunk_tables
from tbtrainer.statistics.readers.cuda import CONSTANTS, SOURCE, THREADS
from tbtrainer.statistics.readers.nvrtc import CompiledKernels, cuda_library
from tests.cuda_emulator import emulation as emulated
from tests.cuda_emulator.emulation import emulation, emulator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def emulated_device() -> Iterator[None]:
    with emulation():
        yield


def library() -> ctypes.CDLL:
    return emulator(torch.float32)


def made() -> CompiledKernels:
    return CompiledKernels(library(), SOURCE.read_text(), {**CONSTANTS, "DTYPE": "Float32"})


def options() -> list[str]:
    return (
        ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library(), "options")))
        .decode()
        .split()
    )


def launch(
    kernels: CompiledKernels, name: str = "measure", threads: int = THREADS, at: int = 0
) -> None:
    values = torch.ones(40)
    ((_, table),) = chunk_tables([0], [values], lambda tensor: tensor.dtype)
    table[:, 0] += at
    outputs = [torch.zeros(4).double(), torch.zeros(3).long(), torch.zeros(2053).long(), None]
    kernels.launch(name, CPU, 1, threads, [table, *outputs])


def test_code_is_made_for_the_architecture_of_the_device() -> None:
    launch(made())
    assert options()[0] == "--gpu-architecture=sm_90"


@pytest.mark.parametrize("architecture, newest_known", [(86, 80), (100, 90), (75, 80)])
def test_an_unknown_architecture_gets_intermediate_code(
    architecture: int, newest_known: int
) -> None:
    made().compile(architecture)
    assert options()[0] == f"--gpu-architecture=compute_{newest_known}"


def test_the_constants_of_the_source_are_those_of_the_buckets() -> None:
    made().compile(90)
    assert options()[1:] == [
        *(f"--define-macro={name}={value}" for name, value in CONSTANTS.items()),
        "--define-macro=DTYPE=Float32",
    ]


def test_a_kernel_is_compiled_for_the_first_launch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, compiled = made(), []
    compile_ = kernels.compile
    monkeypatch.setattr(kernels, "compile", lambda a: compiled.append(a) or compile_(a))
    for _ in range(3):
        launch(kernels)
    assert compiled == [10 * emulated.CAPABILITY[0] + emulated.CAPABILITY[1]]


def test_an_error_of_the_driver_is_raised_with_its_text() -> None:
    with pytest.raises(RuntimeError, match="cuModuleGetFunction failed: named symbol not found"):
        launch(made(), "missing")


def test_a_launch_that_fails_is_raised() -> None:
    with pytest.raises(RuntimeError, match="cuLaunchKernel failed: invalid argument"):
        launch(made(), threads=32)


def test_the_emulator_finds_a_read_outside_of_a_chunk() -> None:
    kernels = made()
    with pytest.raises(RuntimeError, match="misaligned address|illegal memory access"):
        launch(kernels, at=2)


def test_a_build_of_pytorch_for_cpus_has_no_such_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    cuda_library.cache_clear()
    assert cuda_library() is None


def test_a_missing_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("tbtrainer.statistics.readers.nvrtc._LIBRARY", "libmissing.so")
    cuda_library.cache_clear()
    assert cuda_library() is None
    cuda_library.cache_clear()
