"""The kernels, which Triton's interpreter runs here, find what the other code finds."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tbtrainer.statistics import TensorStatistics, measure, measure_linear, shares
from tbtrainer.statistics.readers import choice

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip(
        "where there is a device, tests/gpu runs the kernels on it", allow_module_level=True
    )

from tbtrainer.statistics.readers import kernels
from tbtrainer.statistics.readers.chunks import CHUNK
from tbtrainer.statistics.readers.kernels import KernelReader
from tests.limits import HANG_SECONDS

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def normal(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 0.02


def assert_equal(found: TensorStatistics, expected: TensorStatistics) -> None:
    for field in ("count", "zeros", "nonfinite", "minimum", "maximum", "buckets"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    torch.testing.assert_close(found.sum_of_squares, expected.sum_of_squares, rtol=1e-6, atol=0)
    # Positive and negative elements cancel: what counts is their size, at most this much in sum.
    size = (expected.count * expected.sum_of_squares).sqrt()
    assert ((found.sum - expected.sum).abs() <= 1e-6 * size).all()


def assert_found_alike(tensors: list, loss_scale: torch.Tensor | None = None) -> None:
    expected = measure(tensors, CPU, loss_scale)
    assert_equal(measure(tensors, CPU, loss_scale, backend="kernel"), expected)
    ends = expected.minimum, expected.maximum
    assert torch.equal(
        measure_linear(tensors, *ends, loss_scale, backend="kernel"),
        measure_linear(tensors, *ends, loss_scale),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_odd_sizes_in_one_launch(dtype: torch.dtype) -> None:
    sizes = [1, 0, kernels._BLOCK - 1, kernels._BLOCK, kernels._BLOCK + 1, CHUNK, 0]
    tensors = [normal(size, seed).to(dtype) for seed, size in enumerate(sizes)]
    assert_found_alike([*tensors, normal(2 * CHUNK + 77).to(dtype), None])


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_floats_of_eight_bits(dtype: torch.dtype) -> None:
    assert_found_alike([(normal(3000) * 50).to(dtype)])


def test_magnitudes_far_apart_are_counted_where_they_belong() -> None:
    exponents = torch.linspace(-148, 127, 20_000)
    values = torch.ldexp(torch.ones(20_000), exponents) * torch.tensor([1.0, -1.0]).repeat(10_000)
    assert_found_alike([values, values.flip(0), values[torch.randperm(20_000)]])


@pytest.mark.parametrize("first", [0.0, 1e-30, 1e30, torch.nan, -torch.inf])
def test_what_comes_first_does_not_decide_what_is_found(first: float) -> None:
    values = normal(3 * kernels._BLOCK + 5)
    values[: kernels._BLOCK] = first
    assert_found_alike([values])


def test_a_tensor_without_a_finite_element() -> None:
    assert_found_alike([torch.full((5,), torch.nan), torch.full((3000,), -torch.inf), normal(4)])


def test_zeros_of_either_sign_and_padding_are_told_apart() -> None:
    values = normal(kernels._BLOCK + 100)
    values[::3], values[1::3] = 0.0, -0.0
    assert_found_alike([values, torch.zeros(10), torch.zeros(kernels._BLOCK)])


def test_memory_in_any_order_and_at_any_address() -> None:
    whole = normal(6 * 8 * 10).reshape(6, 8, 10)
    views = [
        whole.transpose(0, 2),
        whole.flatten()[3:],
        whole[::2],
        whole[:, :, :1].expand(6, 8, 4),
    ]
    assert [KernelReader().supports(view) for view in views] == [True, True, False, False]
    assert_found_alike([*views, normal(4096)[1:].bfloat16()[1:]])


@pytest.mark.parametrize("scale", [65536.0, 100.0])
def test_elements_are_divided_by_the_loss_scale(scale: float) -> None:
    gradients = (normal(5000) * 10).half().float()
    found = measure([gradients], CPU, torch.tensor(scale), backend="kernel")
    # The kernel rounds the quotients to float32.
    assert_equal(found, measure([gradients / scale], CPU))


@pytest.mark.parametrize("scale", [2.0**12, 3000.0, 2.0**126, 2.0**127, 0.5])
def test_quotients_too_small_for_a_normal_float_are_kept(scale: float) -> None:
    quotients = torch.ldexp(torch.ones(4000), torch.linspace(-148, -100, 4000))
    values = (quotients.double() * scale).float()
    expected = measure([(values.double() / scale).float()], CPU)
    assert expected.zeros == 0
    assert_equal(measure([values], CPU, torch.tensor(scale), backend="kernel"), expected)


def test_all_tensors_are_measured_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []

    class Counted:
        def __init__(self, launched: Any) -> None:
            self.launched = launched

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launches.append(grid)
            return self.launched[grid]

    monkeypatch.setattr(kernels, "_measure", Counted(kernels._measure))
    for number in (1, 50):
        measure([normal(8)] * number, CPU, backend="kernel")
    assert launches == [(1,), (50,)]


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA"), RuntimeError("Triton Error: out of memory")]
)
def test_memory_that_runs_out_once_does_not_end_the_kernels(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(*args: Any) -> None:
        raise error

    monkeypatch.setattr(choice, "_kernel_failures", {})
    # The package has a function of the module's name.
    module = sys.modules["tbtrainer.statistics.measure"]
    monkeypatch.setattr(shares, "reader_of", lambda *_: KernelReader())
    monkeypatch.setattr(module, "plain_reader", lambda _: pytest.fail("tried again"))
    with monkeypatch.context() as failing:
        failing.setattr(module, "plain_reader", lambda _: None)
        failing.setattr(KernelReader, "measure_into", broken)
        with pytest.raises(type(error)):
            measure([normal(100)], CPU)
    assert choice._kernel_failures == {}


def test_a_kernel_that_fails_is_replaced_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("no compiler")

    tensors = [normal(100), normal(200)]
    expected = measure(tensors, CPU)
    monkeypatch.setattr(choice, "_kernel_failures", {})
    monkeypatch.setattr(shares, "reader_of", lambda *_: KernelReader())
    monkeypatch.setattr(KernelReader, "measure_into", broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_equal(measure(tensors, CPU), expected)
    assert caplog.text.count("no compiler") == 1
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(tensors, CPU, backend="kernel")


# Launches as on a GPU, but without one: Triton's own path from the call to the machine code, with a
# driver that only says what the device is.
COMPILED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from tbtrainer.statistics.readers import kernels


class Driver:
    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0


I, D, F = torch.int64, torch.float64, torch.float32
DTYPES = {80: (F, torch.int16, torch.float16), 90: (torch.float8_e4m3fn, torch.float8_e5m2)}
for capability, dtypes in DTYPES.items():
    driver.set_active(Driver(capability))
    for dtype in dtypes:
        scale = F if dtype == torch.float16 else None
        for name, arguments, constants in (
            ("_measure", (I, D, I, I, scale, dtype), {"ALIGNMENT": 16, "BLOCK": 2048}),
            ("_count_linear", (I, I, D, D, scale, dtype), {"BLOCK": 1024}),
        ):
            kernel = getattr(kernels, name)
            compiled = kernel.warmup(*arguments, **constants, num_warps=4, grid=(1,))
            assert compiled.asm["cubin"]
            # Instructions that make zeros of the smallest numbers.
            print(name, dtype, compiled.asm["ptx"].count(".ftz"))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Kernel, dtype and number of flushing instructions of each kernel compiled."""
    cache = str(tmp_path_factory.mktemp("triton"))
    environment = {**os.environ, "TRITON_CACHE_DIR": cache, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_kernels_compile_for_gpus_that_are_not_here(compiled: list[str]) -> None:
    assert len(compiled) == 10


def test_the_kernels_flush_no_small_number_to_zero(compiled: list[str]) -> None:
    assert {line.split()[-1] for line in compiled} == {"0"}
