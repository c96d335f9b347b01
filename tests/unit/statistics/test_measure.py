"""One pass finds what numpy finds, whatever the dtype, the strides and the values."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tbtrainer.statistics import (
    BUCKET_COUNT,
    BUCKET_EDGES,
    TensorStatistics,
    measure,
)
from tbtrainer.statistics.buckets import ZERO_BUCKET
from tbtrainer.statistics.readers import cpu, cpu_small
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.readers.pytorch import PytorchReader
from tests.cuda_emulator.emulation import emulation

CPU = torch.device("cpu")

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SMALL_FLOATS = [torch.float8_e4m3fn, torch.float8_e5m2]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
EXTREME = [0.0, -0.0, 1e-45, -1e-40, 1e-300, 3e38, -3e38, 1e308, np.inf, -np.inf, np.nan, 2.0**24]


def by_pytorch(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The path of other devices, which runs on the CPU as well."""
    found = TensorStatistics.empty(len(tensors), CPU)
    PytorchReader().measure_into(found, range(len(tensors)), tensors, None)
    return found


def by_chunks(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The NumPy path of large tensors, also for small ones."""
    found = TensorStatistics.empty(len(tensors), CPU)
    cpu._measure_large(found, list(enumerate(tensors)), None)
    return found


def by_default(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The compiled reader, where it was built."""
    return measure(tensors, CPU)


def together(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The NumPy path of small tensors."""
    return measure(tensors, CPU, backend="plain")


def by_kernel(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The kernel, interpreted, for all it serves."""
    pytest.importorskip("triton")
    return measure(tensors, CPU, backend="kernel")


def by_cuda(tensors: list[torch.Tensor]) -> TensorStatistics:
    """The CUDA C++ kernel, compiled for the CPU, for all it serves."""
    with emulation():
        return measure(tensors, CPU, backend="kernel")


PATHS = pytest.mark.parametrize(
    "path", [by_default, together, by_chunks, by_pytorch, by_kernel, by_cuda]
)


def expected_buckets(values: np.ndarray) -> np.ndarray:
    """Counts in the fixed buckets, found by searching the edges."""
    finite = values[np.isfinite(values)]
    finite = finite[finite != 0]
    # A float64 is narrowed for its bucket, and for that alone.
    single = np.clip(finite, -3.4028235e38, 3.4028235e38).astype(np.float32).astype(np.float64)
    magnitude = np.abs(single)
    edges = BUCKET_EDGES[ZERO_BUCKET + 1 :]
    place = np.searchsorted(edges, magnitude, side="right") - 1
    buckets = np.where(np.signbit(finite), ZERO_BUCKET - 1 - place, ZERO_BUCKET + 1 + place)
    counts = np.bincount(buckets, minlength=BUCKET_COUNT)
    counts[ZERO_BUCKET] = (values == 0).sum()
    return counts


def assert_right(found: TensorStatistics, row: int, tensor: torch.Tensor) -> None:
    values = tensor.detach().to(torch.float64).numpy().ravel()
    finite = values[np.isfinite(values)]
    assert found.count[row] == values.size
    assert found.zeros[row] == (values == 0).sum()
    assert found.nonfinite[row] == values.size - finite.size
    assert found.minimum[row] == (finite.min() if finite.size else np.inf)
    assert found.maximum[row] == (finite.max() if finite.size else -np.inf)
    with np.errstate(over="ignore"):
        scale = np.abs(finite).sum()
        squares = np.square(finite).sum()
    if np.isfinite(scale):
        assert abs(found.sum[row].item() - finite.sum()) <= 1e-6 * scale
    if np.isfinite(squares):
        assert found.sum_of_squares[row].item() == pytest.approx(squares, rel=1e-6, abs=1e-300)
    np.testing.assert_array_equal(found.buckets[row].numpy(), expected_buckets(values))


@PATHS
@pytest.mark.parametrize("dtype", FLOATS + SMALL_FLOATS + WHOLE, ids=str)
def test_every_dtype_is_measured_exactly(
    path: Callable[..., TensorStatistics], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1009, generator=generator, dtype=torch.float64) * 3
    values[::7] = 0
    tensor = values.abs().to(dtype) if dtype == torch.uint8 else values.to(dtype)
    assert_right(path([tensor]), 0, tensor)


@PATHS
@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(max_dims=3, max_side=9),
        elements=st.one_of(st.sampled_from(EXTREME), st.floats()),
    ),
    st.sampled_from(FLOATS),
)
def test_any_values_are_counted_in_their_buckets(
    path: Callable[..., TensorStatistics], values: np.ndarray, dtype: torch.dtype
) -> None:
    tensor = torch.from_numpy(values).to(dtype)
    assert_right(path([tensor]), 0, tensor)


@PATHS
def test_tensors_of_any_strides_are_measured_whole(path: Callable[..., TensorStatistics]) -> None:
    whole = torch.randn(6, 8, 10, generator=torch.Generator().manual_seed(1))
    views = [
        whole.transpose(0, 2),
        whole[::2, 1:7:3],
        whole.permute(1, 2, 0)[:, :1],
        whole[:, :, :1].expand(6, 8, 4),
        whole.flatten()[::3],
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    ]
    found = path(views)
    for row, view in enumerate(views):
        assert_right(found, row, view)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 2000), st.sampled_from([0, 1, 2]))
def test_counts_of_any_two_parts_add_up(cut: int, size: int, seed: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    cut = min(cut, size)
    whole, parts = measure([values], CPU), measure([values[:cut], values[cut:]], CPU)
    for field in ("count", "zeros", "nonfinite", "buckets"):
        assert torch.equal(getattr(whole, field)[0], getattr(parts, field).sum(dim=0))
    assert whole.minimum[0] == parts.minimum.min()
    assert whole.maximum[0] == parts.maximum.max()


@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_a_tensor_of_many_chunks_is_measured_by_several_threads(backend: Backend) -> None:
    tensor = torch.randn(cpu.CHUNK * 4 + 17, generator=torch.Generator().manual_seed(2))
    tensor[5], tensor[-1], tensor[cpu.CHUNK] = torch.nan, torch.inf, 0.0
    assert_right(measure([tensor], CPU, backend=backend), 0, tensor)


@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_large_and_small_tensors_keep_their_rows(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = [3, cpu_small.SMALL_MAX_ELEMENTS + 1, 0, 7, cpu_small.SMALL_MAX_ELEMENTS]
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    found = measure([*tensors, None], CPU, backend=backend)
    for row, tensor in enumerate(tensors):
        assert_right(found, row, tensor)
    assert found.count[-1] == 0


@PATHS
def test_elements_are_divided_by_the_loss_scale(path: Callable[..., TensorStatistics]) -> None:
    values = torch.tensor([65536.0, -32768.0, 1.0])
    scaled = measure([values], CPU, torch.tensor(65536.0))
    plain = path([values.double() / 65536.0])
    for field in ("minimum", "maximum", "sum", "sum_of_squares", "buckets"):
        assert torch.equal(getattr(scaled, field), getattr(plain, field))


def test_nothing_random_is_drawn_and_nothing_is_changed() -> None:
    tensor = torch.randn(1000, requires_grad=True)
    copy, torch_state, numpy_state = (
        tensor.detach().clone(),
        torch.get_rng_state(),
        np.random.get_state(),
    )
    found = measure([tensor], CPU)
    assert torch.equal(tensor, copy)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state[1], np.random.get_state()[1])
    assert not found.sum.requires_grad
