"""What every reader keeps of the protocol: values outside of the ends, and counters."""

from collections.abc import Iterator

import pytest
import torch

from tbtrainer.statistics import LINEAR_BUCKET_COUNT, TensorStatistics
from tbtrainer.statistics.readers.choice import _kernel_readers
from tbtrainer.statistics.readers.cpu import CpuReader
from tbtrainer.statistics.readers.cpu_compiled import CompiledCpuReader, load_library
from tbtrainer.statistics.readers.pytorch import PytorchReader
from tbtrainer.statistics.readers.reader import Reader
from tests.cuda_emulator.emulation import emulation

CPU = torch.device("cpu")
COMPILED = ["C", "Triton", "CUDA C++"]


@pytest.fixture(params=["NumPy", "PyTorch", *COMPILED])
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A reader of tensors in main memory."""
    if request.param == "CUDA C++":
        with emulation() as found:
            yield found
    elif request.param == "Triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("where there is a device, Triton does not interpret its kernels")
        yield from _kernel_readers("cpu")
    elif request.param == "C":
        library = load_library()
        if library is None:
            pytest.skip("the compiled reader was not built")
        yield CompiledCpuReader(library)
    else:
        yield CpuReader() if request.param == "NumPy" else PytorchReader()


def counted(reader: Reader, tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Counts of the linear pass of a tensor. Shape (LINEAR_BUCKET_COUNT,)."""
    if not reader.supports(tensor):
        pytest.skip(f"not for {tensor.dtype}")
    out = torch.zeros(1, LINEAR_BUCKET_COUNT, dtype=torch.int64)
    ends = [torch.tensor([end], dtype=torch.float64) for end in (low, high)]
    reader.linear_into(out, [0], [tensor], *ends, None)
    return out[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("high", [2.0, 1 + 1e-12], ids=["wide", "narrow"])
def test_values_outside_of_the_ends_are_in_the_outermost_buckets(
    reader: Reader, dtype: torch.dtype, high: float
) -> None:
    values = torch.tensor([-1e38, -1.0, 0.5, 3.0, 1e38, torch.inf, torch.nan]).to(dtype)
    counts = counted(reader, values, 1.0, high)
    assert counts[[0, -1]].tolist() == [3, 2]
    assert counts.sum() == 5


@pytest.mark.parametrize(
    "dtype, value, width",
    [(torch.float64, 1.5e308, 1e-10), (torch.float32, 3e38, 1e-290), (torch.bfloat16, 3e38, 0.0)],
    ids=str,
)
def test_a_distance_from_the_ends_that_overflows_is_counted(
    reader: Reader, dtype: torch.dtype, value: float, width: float
) -> None:
    values = torch.tensor([-value, value, value], dtype=torch.float64).to(dtype)
    counts = counted(reader, values, 0.0, width)
    assert counts[[0, -1]].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_linear_pass_reads_large_tensors_whole(reader: Reader, dtype: torch.dtype) -> None:
    values = (1 + 0.1 * torch.randn(150_001, generator=torch.Generator().manual_seed(0))).to(dtype)
    counts = counted(reader, values, 0.9, 1.1)
    assert counts.sum() == 150_001
    assert counts[0] == (values.double() < 0.9 + 0.2 / LINEAR_BUCKET_COUNT).sum()
    assert counts[-1] == (values.double() >= 1.1 - 0.2 / LINEAR_BUCKET_COUNT).sum()


@pytest.mark.parametrize("reader", COMPILED, indirect=True)
@pytest.mark.parametrize("counters", ["int16", "int32", "strided"])
def test_compiled_code_gets_no_counters_of_another_form(reader: Reader, counters: str) -> None:
    shape = (2, LINEAR_BUCKET_COUNT)
    if counters == "int32" and torch.int32 in reader.counter_dtypes:
        pytest.skip("counts in int32 too")
    out = torch.zeros(shape, dtype=torch.int16 if counters == "int16" else torch.int32)
    if counters == "strided":
        out = torch.zeros(shape, dtype=torch.int64).repeat_interleave(2, 1)[:, ::2]
    ends = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    with pytest.raises(TypeError, match="int64 and contiguous"):
        reader.linear_into(out, [0], [torch.ones(3)], *ends, None)
    statistics = TensorStatistics.empty(2, CPU, out)
    with pytest.raises(TypeError, match="int64 and contiguous"):
        reader.measure_into(statistics, [0], [torch.ones(3)], None)
