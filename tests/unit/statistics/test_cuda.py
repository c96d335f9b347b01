"""The CUDA C++ kernels, compiled for the CPU here, find what the other code finds."""

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tbtrainer.statistics import BUCKET_COUNT, TensorStatistics, measure, measure_linear
from tbtrainer.statistics.readers.chunks import CHUNK, chunk_tables, cut
from tbtrainer.statistics.readers.cuda import DTYPES, THREADS, CudaReader
from tests.cuda_emulator.emulation import STREAM, emulation, emulator

CPU = torch.device("cpu")
EVERY_DTYPE = pytest.mark.parametrize("dtype", list(DTYPES), ids=str)


@pytest.fixture(autouse=True)
def reader() -> Iterator[CudaReader]:
    with emulation() as reader:
        yield reader


def normal(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 0.02


def assert_equal(found: TensorStatistics, expected: TensorStatistics) -> None:
    for field in ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    torch.testing.assert_close(found.sum_of_squares, expected.sum_of_squares, rtol=1e-6, atol=0)
    # Positive and negative elements cancel: what counts is their size, at most this much in sum.
    size = (expected.count * expected.sum_of_squares).sqrt()
    assert ((found.sum - expected.sum).abs() <= 1e-6 * size).all()


def assert_found_alike(tensors: list[torch.Tensor | None]) -> None:
    expected = measure(tensors, CPU)
    assert_equal(measure(tensors, CPU, backend="kernel"), expected)


@EVERY_DTYPE
def test_tensors_of_odd_sizes_in_one_launch(dtype: torch.dtype) -> None:
    before = ctypes.c_int.in_dll(emulator(dtype), "launches").value
    sizes = [1, 0, 7, 8, 9, 31, 32, 33, THREADS * 16 - 1, THREADS * 16, THREADS * 16 + 1]
    sizes += [CHUNK - 1, CHUNK, CHUNK + 1, 0, 2 * CHUNK + 77]
    tensors = [normal(size, seed).to(dtype) for seed, size in enumerate(sizes)]
    assert_found_alike([*tensors, None])
    assert ctypes.c_int.in_dll(emulator(dtype), "launches").value == before + 1


@EVERY_DTYPE
@pytest.mark.parametrize("size", [1, 3, 20, 9000, CHUNK + 5])
def test_memory_at_any_address(dtype: torch.dtype, size: int) -> None:
    whole = normal(size + 20).to(dtype)
    assert_found_alike([whole[begin : begin + size] for begin in range(17)])


@EVERY_DTYPE
def test_memory_in_any_order(dtype: torch.dtype, reader: CudaReader) -> None:
    whole = normal(6 * 8 * 10).to(dtype).reshape(6, 8, 10)
    views = [whole.transpose(0, 2), whole[::2], whole[:, :, :1].expand(6, 8, 4)]
    assert [reader.supports(view) for view in views] == [True, False, False]
    assert_found_alike(views)


def test_elements_at_addresses_of_no_element_are_not_read(reader: CudaReader) -> None:
    memory = bytearray(41)
    found = [torch.frombuffer(memory, dtype=torch.float32, offset=at, count=5) for at in (0, 1, 4)]
    assert [reader.supports(tensor) for tensor in found] == [True, False, True]


@EVERY_DTYPE
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-42, -1e-42])
@pytest.mark.parametrize("place", [0, 5000, -1])
def test_one_odd_value_among_many(dtype: torch.dtype, value: float, place: int) -> None:
    values = normal(CHUNK + 100).to(dtype)
    values[place] = value
    assert_found_alike([values])


@EVERY_DTYPE
def test_tensors_without_a_finite_element(dtype: torch.dtype) -> None:
    values = [torch.full((5,), torch.nan), torch.full((3000,), -torch.inf), torch.zeros(40)]
    assert_found_alike([value.to(dtype) for value in values])


def test_zeros_and_the_smallest_numbers_are_told_apart() -> None:
    values = torch.tensor([0.0, -0.0, 1e-45, -1e-45, -1e-45, 1e-38, -1.1754944e-38]).repeat(333)
    assert_found_alike([values, values.abs(), -values.abs(), values.clamp(min=0)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_magnitudes_far_apart_are_counted_where_they_belong(dtype: torch.dtype) -> None:
    exponents = torch.linspace(-148, 127, 20_000)
    values = torch.ldexp(torch.ones(20_000), exponents) * torch.tensor([1.0, -1.0]).repeat(10_000)
    assert_found_alike([values.to(dtype), values.flip(0).to(dtype)])


def test_what_only_float64_holds_is_finite_and_not_zero() -> None:
    values = normal(3000).double()
    values[:6] = torch.tensor([1e300, -1e300, 1e-300, -1e-300, 1e39, 5e-324], dtype=torch.float64)
    values[6:9] = torch.tensor([torch.inf, torch.nan, 0.0])
    assert_found_alike([values / 1e150, values])


def test_float64_next_to_an_edge_is_rounded_as_float32() -> None:
    edge = torch.tensor([1.0, 1.0625, 2.0**-40, 2.0**24], dtype=torch.float64)
    assert_found_alike(
        [torch.cat([edge * (1 - 1e-9), edge * (1 - 1e-7), edge, -edge * (1 - 1e-9)])]
    )


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-21, 1e-18, 1e-15, 1e15, 1e18, 1e21, 3e37])
def test_sums_are_accurate_for_every_magnitude(size: float) -> None:
    values = normal(CHUNK + 3000) * 50 * torch.tensor(size, dtype=torch.float64)
    assert_found_alike([values.clamp(-3e38, 3e38).float()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sums_of_equal_values_are_accurate(dtype: torch.dtype) -> None:
    # All roundings go the same way.
    values = torch.linspace(0.1, 0.2, 20).tolist()
    assert_found_alike([torch.full((CHUNK,), value).to(dtype) for value in values])


def test_quotients_that_are_equal_are_added_up_accurately() -> None:
    values = [torch.full((CHUNK,), value) for value in torch.linspace(0.1, 0.2, 20).tolist()]
    found = measure(values, CPU, torch.tensor(3.0), backend="kernel")
    expected = measure([value / 3.0 for value in values], CPU)
    assert_equal(found, expected)
    # Equal elements are rounded alike: plain sums in float32 would be off by 4e-7.
    torch.testing.assert_close(found.sum, expected.sum, rtol=1e-7, atol=0)
    torch.testing.assert_close(found.sum_of_squares, expected.sum_of_squares, rtol=1.5e-7, atol=0)


@pytest.mark.parametrize("scale", [65536.0, 0.5, 100.0, 3000.0, 2.0**126, 2.0**127])
def test_elements_are_divided_by_the_loss_scale(scale: float) -> None:
    quotients = torch.cat(
        [normal(5000), torch.ldexp(torch.ones(500), torch.linspace(-148, 0, 500))]
    )
    gradients = (quotients.double() * scale).clamp(-3e38, 3e38).float()
    found = measure([gradients], CPU, torch.tensor(scale), backend="kernel")
    # The kernel rounds the quotients to float32.
    expected = [(gradients.double() / scale).float()]
    assert_equal(found, measure(expected, CPU))
    ends = found.minimum, found.maximum
    linear = measure_linear([gradients], *ends, torch.tensor(scale), backend="kernel")
    assert torch.equal(linear, measure_linear(expected, *ends))


@pytest.mark.parametrize("scale", [100.0, 3000.0])
def test_every_quotient_is_correctly_rounded(scale: float) -> None:
    gradients = normal(200).split(1)
    found = measure(gradients, CPU, torch.tensor(scale), backend="kernel")
    assert_equal(found, measure([gradient / scale for gradient in gradients], CPU))


@pytest.mark.parametrize("scale", [1024.0, 3000.0])
def test_float64_is_divided_by_the_loss_scale(scale: float) -> None:
    values = normal(5000).double() * scale
    loss_scale = torch.tensor(scale)
    expected = measure([values], CPU, loss_scale)
    assert_equal(measure([values], CPU, loss_scale, backend="kernel"), expected)


@EVERY_DTYPE
def test_the_linear_pass_counts_every_element_alike(dtype: torch.dtype) -> None:
    tensors = [normal(size, size).to(dtype) + 1 for size in (1, 7, 700, 65_536)]
    tensors += [torch.full((9,), 3.0).to(dtype), torch.full((5,), torch.nan).to(dtype)]
    tensors[2][::9] = torch.inf
    found = measure(tensors, CPU)
    ends = found.minimum, found.maximum
    kernel = measure_linear(tensors, *ends, backend="kernel")
    assert torch.equal(kernel, measure_linear(tensors, *ends))


def test_the_linear_pass_spans_all_of_float64() -> None:
    values = torch.linspace(-1, 1, 2001, dtype=torch.float64) * torch.finfo(torch.float64).max
    ends = values[:1], values[-1:]
    kernel = measure_linear([values], *ends, backend="kernel")
    assert torch.equal(kernel, measure_linear([values], *ends))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tensors_that_share_a_row_are_counted_together(dtype: torch.dtype) -> None:
    tensors = [normal(size, size).to(dtype) for size in (3, 5000, CHUNK + 1)]
    expected = measure(tensors, CPU, rows=[1, 0, 1], row_count=3)
    found = measure(tensors, CPU, backend="kernel", rows=[1, 0, 1], row_count=3)
    assert_equal(found, expected)


def test_the_kernels_run_on_the_current_stream() -> None:
    measure([normal(8)], CPU, backend="kernel")
    stream = ctypes.c_void_p.in_dll(emulator(torch.float32), "last_stream")
    assert stream.value == STREAM


@EVERY_DTYPE
def test_every_dtype_has_a_launch_of_its_own(dtype: torch.dtype) -> None:
    others = [normal(100, seed).to(other) for seed, other in enumerate(DTYPES)]
    assert_found_alike([normal(100).to(dtype), *others])


def test_more_than_two_billion_elements_are_cut_whole() -> None:
    elements, address = 2**31 + 7, 2**46 + 2
    chunks = cut(np.array([[address, elements, 3], [16, 5, 4]], np.int64), 2)
    begins = chunks[:-1, 0] - address
    assert np.array_equal(begins[1:], 2 * np.cumsum(chunks[:-2, 1]))
    assert chunks[:-1, 1].sum() == elements
    assert chunks[-2].tolist() == [address + 2**32, 7, 3]
    assert chunks[-1].tolist() == [16, 5, 4]


def test_the_last_elements_beyond_two_billion_are_read(reader: CudaReader) -> None:
    # 4 GiB of addresses. Pages that are never written take no memory.
    values = torch.from_numpy(np.zeros(2**31 + 7, np.uint16)).view(torch.bfloat16)
    values[-7:] = torch.arange(1.0, 8.0)
    ((_, table),) = chunk_tables([0], [values], lambda tensor: tensor.dtype)
    last = table[-1:].contiguous()
    sums, counts = torch.empty(1, 4, dtype=torch.float64), torch.empty(1, 3, dtype=torch.int64)
    buckets = torch.zeros(1, BUCKET_COUNT, dtype=torch.int64)
    arguments = [last, sums, counts, buckets, None]
    reader._kernels[torch.bfloat16].launch("measure", CPU, 1, THREADS, arguments)
    assert sums.tolist() == [[28.0, 140.0, 1.0, 7.0]]


def test_a_row_whose_counters_lie_beyond_two_billion(reader: CudaReader) -> None:
    row, buckets = 2**22, torch.zeros(1, BUCKET_COUNT, dtype=torch.int64)
    # Only the counters of this one row exist.
    before = SimpleNamespace(data_ptr=lambda: buckets.data_ptr() - row * BUCKET_COUNT * 8)
    values = normal(1000)
    ((_, table),) = chunk_tables([row], [values], lambda tensor: tensor.dtype)
    sums, counts = torch.empty(1, 4, dtype=torch.float64), torch.empty(1, 3, dtype=torch.int64)
    arguments = [table, sums, counts, before, None]
    reader._kernels[torch.float32].launch("measure", CPU, 1, THREADS, arguments)
    assert torch.equal(buckets, measure([values], CPU).buckets)
