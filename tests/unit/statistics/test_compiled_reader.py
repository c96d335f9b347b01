"""The compiled reader of the CPU finds what NumPy's finds, with any number of threads."""

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tbtrainer.statistics import LINEAR_BUCKET_COUNT, TensorStatistics, measure, measure_linear
from tbtrainer.statistics.measure import measure_into, measure_linear_into
from tbtrainer.statistics.readers import choice, cpu_compiled
from tbtrainer.statistics.readers.cpu_compiled import CompiledCpuReader, load_library

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
COUNTS = ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets")
# Around the sizes of a vector, a block and a chunk of the library.
SIZES = [1, 2, 15, 16, 17, 1023, 1024, 1025, 16_383, 16_384, 16_385, 100_003]
EXTREME = [
    *(0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0),
    # The ends of the ranges of float16, float32 and float64, and what is beyond them.
    *(6e-8, 65504.0, 65536.0, 1e-45, -1e-45, 1e-40, 3.4028235e38, -3.4028236e38, 5e-324, -1e-300),
    # The ends of the range of the buckets, and a number that float32 rounds into the next bucket.
    *(2.0**-40, -(2.0**-40), 2.0**24, -(2.0**24), 1 - 1e-9),
]

built = pytest.mark.skipif(load_library() is None, reason="the compiled reader was not built")


def values_of(size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Values of many magnitudes; a third of them are extreme if there are enough."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator, dtype=torch.float64)
    values *= torch.exp(10 * torch.randn(size, generator=generator, dtype=torch.float64))
    places = torch.randperm(size, generator=generator)[: size // 3]
    extreme = torch.tensor(EXTREME, dtype=torch.float64)
    values[places] = extreme[torch.randint(len(EXTREME), (len(places),), generator=generator)]
    return values.to(dtype)


def both(
    tensors: list[torch.Tensor], loss_scale: torch.Tensor | None = None
) -> tuple[TensorStatistics, TensorStatistics]:
    """What the compiled reader finds, and what NumPy's finds."""
    return measure(tensors, CPU, loss_scale), measure(tensors, CPU, loss_scale, backend="plain")


def assert_equal_counts(found: TensorStatistics, expected: TensorStatistics) -> None:
    for name in COUNTS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def assert_close_sums(
    found: TensorStatistics, expected: TensorStatistics, tensors: list[torch.Tensor], scale: float
) -> None:
    for row, tensor in enumerate(tensors):
        finite = tensor.double()[tensor.isfinite()] / scale
        sizes = {"sum": finite.abs().sum(), "sum_of_squares": finite.square().sum()}
        for name, size in sizes.items():
            difference = (getattr(found, name)[row] - getattr(expected, name)[row]).abs()
            assert not size.isfinite() or difference <= 1e-12 * size, name


@built
@pytest.mark.parametrize("loss_scale", [None, 1024.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_size_gives_what_numpy_finds(dtype: torch.dtype, loss_scale: float | None) -> None:
    tensors = [values_of(size, dtype, seed) for seed, size in enumerate(SIZES)]
    found, expected = both(tensors, None if loss_scale is None else torch.tensor(loss_scale))
    assert_equal_counts(found, expected)
    assert_close_sums(found, expected, tensors, loss_scale or 1.0)


@built
@settings(max_examples=100)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(max_dims=2, max_side=40),
        elements=st.one_of(st.sampled_from(EXTREME), st.floats()),
    ),
    st.sampled_from(DTYPES),
    st.sampled_from([None, 3.0, 65536.0]),
)
def test_any_values_give_what_numpy_finds(
    values: np.ndarray, dtype: torch.dtype, loss_scale: float | None
) -> None:
    tensors = [torch.from_numpy(values).to(dtype)]
    found, expected = both(tensors, None if loss_scale is None else torch.tensor(loss_scale))
    assert_equal_counts(found, expected)
    assert_close_sums(found, expected, tensors, loss_scale or 1.0)


@built
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_numbers_of_two_bytes_are_counted_alike(dtype: torch.dtype) -> None:
    every = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(dtype)
    assert_equal_counts(*both([every[begin : begin + 64] for begin in range(0, 65_536, 64)]))


@built
def test_any_strides_give_what_numpy_finds() -> None:
    whole = values_of(960, torch.float32).view(6, 8, 20)
    shifted = torch.frombuffer(bytearray(range(1, 202)), dtype=torch.float32, count=50, offset=1)
    views = [
        whole.transpose(0, 2),
        whole.permute(1, 2, 0)[:, :1],
        whole[::2, 1:7:3],
        whole[1:, :, 3:],
        whole[:, :, :1].expand(6, 8, 4),
        whole[0, 0, 0],
        shifted,
        torch.complex(whole, whole).conj().imag,
        torch.nn.Parameter(whole.half()),
    ]
    found, expected = both([view.detach() for view in views])
    assert_equal_counts(found, expected)


@built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    tensors = [values_of(size, dtype, size) for size in (300_001, 70_000, 5, 40_000)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    expected = measure(tensors, CPU, rows=[0, 1, 0, 1], row_count=2)
    for threads in (2, 3, 8, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found = measure(tensors, CPU, rows=[0, 1, 0, 1], row_count=2)
        for name in vars(expected):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (threads, name)


@built
@pytest.mark.parametrize("loss_scale", [None, torch.tensor(3.0)], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_linear_pass_gives_what_numpy_finds(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    threads: int,
    loss_scale: torch.Tensor | None,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    narrow = (1 + 0.01 * torch.randn(70_000, generator=torch.Generator().manual_seed(0))).to(dtype)
    nothing = torch.full((5,), torch.nan, dtype=dtype)
    tensors = [narrow, values_of(5000, dtype), torch.ones(40, dtype=dtype), nothing, narrow[:999]]
    rows = [0, 1, 2, 3, 0]
    ends = measure(tensors, CPU, loss_scale, rows=rows, row_count=4)
    extremes = ends.minimum, ends.maximum
    found = measure_linear(tensors, *extremes, loss_scale, rows=rows)
    assert torch.equal(found, measure_linear(tensors, *extremes, loss_scale, "plain", rows))
    assert found.sum(1)[[0, 2, 3]].tolist() == [70_999, 40, 0]


@built
@pytest.mark.parametrize("dtype, value", [(torch.float32, 1e-40), (torch.float16, 1e-7)], ids=str)
def test_subnormal_numbers_count_while_torch_flushes_them(dtype: torch.dtype, value: float) -> None:
    values = torch.full((70_000,), value, dtype=dtype)
    expected = 70_000 * values[0].item()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        found = measure([values], CPU)
    finally:
        torch.set_flush_denormal(False)
    assert found.zeros[0] == 0
    assert found.sum[0].item() == pytest.approx(expected, rel=1e-6, abs=0)


@built
def test_the_gil_is_released_during_the_call() -> None:
    # `PyDLL` is the class of ctypes that keeps it.
    assert not isinstance(load_library(), ctypes.PyDLL)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    """Lets a test choose the reader anew, and others after it."""
    choice._compiled_cpu_reader.cache_clear()
    yield
    choice._compiled_cpu_reader.cache_clear()


def test_the_suite_uses_the_library_if_it_was_built(fresh_choice: None) -> None:
    folder = Path(cpu_compiled.__file__).parent
    was_built = any(folder.glob("_cpu_pass*.so"))
    assert (choice.reader_of(torch.ones(3), "auto").name == "C") == was_built


@pytest.mark.parametrize(
    "name, value",
    [
        ("_MODULE", "tbtrainer.statistics.readers._never_built"),
        ("_MODULE", "tbtrainer.statistics.readers.cpu"),
        ("_INTERFACE", -1),
    ],
    ids=["missing", "not a library", "another version"],
)
def test_numpy_reads_without_a_usable_library(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fresh_choice: None,
    name: str,
    value: Any,
) -> None:
    monkeypatch.setattr(cpu_compiled, name, value)
    with caplog.at_level(logging.DEBUG, logger=cpu_compiled.__name__):
        names = [choice.reader_of(torch.ones(3), "auto").name for _ in range(2)]
    assert names == ["NumPy", "NumPy"]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("backend, name", [("plain", "NumPy"), ("auto", "C")])
@built
def test_the_plain_backend_stays_with_numpy(backend: choice.Backend, name: str) -> None:
    assert choice.reader_of(torch.ones(3), backend).name == name


@built
def test_counters_of_32_bits_get_the_same_counts() -> None:
    # The library does not read the last tensor.
    tensors = [values_of(70_001, torch.float32), values_of(300, torch.bfloat16), torch.arange(9)]
    wide = measure(tensors, CPU)
    narrow = TensorStatistics.empty(3, CPU, torch.zeros_like(wide.buckets, dtype=torch.int32))
    measure_into(narrow, tensors)
    lines = torch.zeros(3, LINEAR_BUCKET_COUNT, dtype=torch.int32)
    measure_linear_into(lines, tensors, wide.minimum, wide.maximum)
    assert torch.equal(narrow.buckets.long(), wide.buckets)
    assert torch.equal(lines.long(), measure_linear(tensors, wide.minimum, wide.maximum))


def test_a_call_without_memory_raises_memory_error() -> None:
    def fails(*arguments: object) -> int:
        return -1

    library: Any = SimpleNamespace(tbtrainer_measure=fails, tbtrainer_linear=fails)
    reader, out = CompiledCpuReader(library), TensorStatistics.empty(1, CPU)
    with pytest.raises(MemoryError):
        reader.measure_into(out, [0], [torch.ones(3)], None)
    counts = torch.zeros(1, LINEAR_BUCKET_COUNT, dtype=torch.int64)
    with pytest.raises(MemoryError):
        reader.linear_into(counts, [0], [torch.ones(3)], out.minimum, out.maximum, None)
