"""Which reader reads a tensor, and which one does when a kernel has failed."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbtrainer.statistics import (
    BUCKET_COUNT,
    LINEAR_BUCKET_COUNT,
    TensorStatistics,
    measure,
    prepare,
    shares,
)
from tbtrainer.statistics.measure import _with_fallback, measure_into, measure_linear_into
from tbtrainer.statistics.readers import choice
from tbtrainer.statistics.readers.choice import reader_of
from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.cuda import CudaReader
from tbtrainer.statistics.readers.nvrtc import CompiledKernels
from tbtrainer.statistics.readers.reader import Reader
from tbtrainer.statistics.shares import Share
from tests.cuda_emulator.emulation import EmulatedKernels, emulation

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# The package has a function of the module's name.
MODULE = sys.modules["tbtrainer.statistics.measure"]


def named(name: str, supported: set[torch.dtype]) -> Any:
    return SimpleNamespace(name=name, supports=lambda tensor: tensor.dtype in supported)


@pytest.fixture(autouse=True)
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_kernel_failures", {})
    found = {
        "cuda": (
            named("first", {torch.float32, torch.float64}),
            named("second", {torch.float32, torch.float16}),
        )
    }
    monkeypatch.setattr(choice, "_kernel_readers", lambda device_type: found.get(device_type, ()))


def on_cuda(dtype: torch.dtype) -> Any:
    return SimpleNamespace(device=CUDA, dtype=dtype)


@pytest.mark.parametrize(
    "dtype, name",
    [(torch.float32, "first"), (torch.float16, "second"), (torch.int8, "PyTorch")],
    ids=str,
)
def test_the_first_reader_that_supports_a_tensor_reads_it(dtype: torch.dtype, name: str) -> None:
    assert reader_of(on_cuda(dtype), "auto").name == name


def test_plain_readers_are_used_where_they_are_asked_for() -> None:
    assert reader_of(on_cuda(torch.float32), "plain").name == "PyTorch"


def test_kernels_that_are_missing_are_an_error_where_asked_for() -> None:
    with pytest.raises(ImportError):
        reader_of(torch.ones(1), "kernel")


def read_by(dtypes: list[torch.dtype], failing: set[str]) -> str:
    """Name of the reader that reads tensors of the dtypes, while others fail."""

    def read(reader: Reader) -> str:
        if reader.name in failing:
            raise RuntimeError(f"no {reader.name}")
        return reader.name

    tensors = [on_cuda(dtype) for dtype in dtypes]
    share = Share(reader_of(tensors[0], "auto"), CUDA, [0] * len(tensors), tensors)
    return _with_fallback(share, "auto", read, lambda: None)


@pytest.mark.parametrize(
    "failing, name",
    [(set(), "first"), ({"first"}, "second"), ({"first", "second"}, "PyTorch")],
    ids=["none", "first", "both"],
)
def test_a_kernel_that_fails_is_replaced_by_the_next(failing: set[str], name: str) -> None:
    assert read_by([torch.float32, torch.float32], failing) == name
    assert reader_of(on_cuda(torch.float32), "auto").name == name


def test_tensors_that_need_different_readers_are_read_plainly_once() -> None:
    assert read_by([torch.float32, torch.float64], {"first"}) == "PyTorch"
    assert reader_of(on_cuda(torch.float32), "auto").name == "second"


def test_every_reader_that_fails_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_by([torch.float32], {"first", "second"})
    assert [record.args[0] for record in caplog.records if record.args] == ["first", "second"]


class FailsAtTheEnd(CpuReader):
    """Counts everything, and fails then."""

    name = "C"

    def measure_into(self, *arguments: Any) -> None:
        super().measure_into(*arguments)
        raise RuntimeError("measure")

    def linear_into(self, *arguments: Any) -> None:
        super().linear_into(*arguments)
        raise RuntimeError("linear")


@pytest.mark.parametrize("counters", [torch.int64, torch.int32], ids=str)
def test_what_a_failed_reader_counted_is_taken_out(
    monkeypatch: pytest.MonkeyPatch, counters: torch.dtype
) -> None:
    monkeypatch.setattr(choice, "_compiled_cpu_reader", FailsAtTheEnd)
    values = torch.arange(100.0)
    expected = measure([values], CPU, backend="plain")
    found = TensorStatistics.empty(1, CPU, torch.zeros(1, BUCKET_COUNT, dtype=counters))
    measure_into(found, [values])
    for name, value in vars(expected).items():
        assert getattr(found, name).tolist() == value.tolist(), name
    monkeypatch.setattr(choice, "_kernel_failures", {})
    linear = torch.zeros(1, LINEAR_BUCKET_COUNT, dtype=counters)
    measure_linear_into(linear, [values], found.minimum, found.maximum)
    assert linear.sum() == 100


def test_numpy_reads_when_the_compiled_reader_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_compiled_cpu_reader", FailsAtTheEnd)
    measure([torch.ones(3)], CPU)
    assert reader_of(torch.ones(3), "auto").name == "NumPy"


def test_without_nvrtc_there_is_no_reader_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbtrainer.statistics.readers.cuda.cuda_library", lambda: None)
    assert CudaReader.of_this_process() is None


def test_prepared_kernels_are_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_ = CompiledKernels.compile

    def noted(kernels: CompiledKernels, architecture: int) -> bytes:
        compiled.append(architecture)
        return compile_(kernels, architecture)

    monkeypatch.setattr(CompiledKernels, "compile", noted)
    dtypes = [torch.float32, torch.bfloat16]
    with emulation():
        reader = CudaReader(EmulatedKernels())
        monkeypatch.setattr(shares, "reader_of", lambda *_: reader)
        prepare([*dtypes, torch.complex64], CPU)
        assert len(compiled) == 2
        measure([torch.ones(9, dtype=dtype) for dtype in dtypes], CPU, torch.tensor(3.0))
    assert len(compiled) == 2


def test_memory_that_runs_out_while_preparing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(MODULE, "measure", fail)
    prepare([torch.float32], CPU)
