"""The kernels, which Triton's interpreter runs here, find what the other code finds."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tbtrainer.statistics import TensorStatistics, measure, measure_linear
from tbtrainer.statistics.readers import choice

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip(
        "where there is a device, tests/gpu runs the kernels on it", allow_module_level=True
    )

from tbtrainer.statistics.readers import kernels
from tbtrainer.statistics.readers.kernels import KernelReader

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
def test_tensors_of_odd_sizes_in_one_launch(dtype):
    sizes = [1, 0, kernels._BLOCK - 1, kernels._BLOCK, kernels._BLOCK + 1, kernels.CHUNK, 0]
    tensors = [normal(size, seed).to(dtype) for seed, size in enumerate(sizes)]
    assert_found_alike([*tensors, normal(2 * kernels.CHUNK + 77).to(dtype), None])


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_floats_of_eight_bits(dtype):
    assert_found_alike([(normal(3000) * 50).to(dtype)])


def test_magnitudes_far_apart_are_counted_where_they_belong():
    exponents = torch.linspace(-148, 127, 20_000)
    values = torch.ldexp(torch.ones(20_000), exponents) * torch.tensor([1.0, -1.0]).repeat(10_000)
    assert_found_alike([values, values.flip(0), values[torch.randperm(20_000)]])


@pytest.mark.parametrize("first", [0.0, 1e-30, 1e30, torch.nan, -torch.inf])
def test_what_comes_first_does_not_decide_what_is_found(first):
    values = normal(3 * kernels._BLOCK + 5)
    values[: kernels._BLOCK] = first
    assert_found_alike([values])


def test_a_tensor_without_a_finite_element():
    assert_found_alike([torch.full((5,), torch.nan), torch.full((3000,), -torch.inf), normal(4)])


def test_zeros_of_either_sign_and_padding_are_told_apart():
    values = normal(kernels._BLOCK + 100)
    values[::3], values[1::3] = 0.0, -0.0
    assert_found_alike([values, torch.zeros(10), torch.zeros(kernels._BLOCK)])


def test_memory_in_any_order_and_at_any_address():
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
def test_elements_are_divided_by_the_loss_scale(scale):
    gradients = (normal(5000) * 10).half().float()
    found = measure([gradients], CPU, torch.tensor(scale), backend="kernel")
    # The kernel divides in float32.
    assert_equal(found, measure([gradients / scale], CPU))


def test_the_number_of_launches_does_not_depend_on_the_number_of_tensors(monkeypatch):
    launches = []

    class Counted:
        def __init__(self, launched):
            self.launched = launched

        def __getitem__(self, grid):
            launches.append(grid)
            return self.launched[grid]

    monkeypatch.setattr(kernels, "_measure", Counted(kernels._measure))
    for number in (1, 50):
        measure([normal(8)] * number, CPU, backend="kernel")
    assert launches == [(1,), (50,)]


def test_a_kernel_that_fails_is_replaced_and_said_once(monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("no compiler")

    tensors = [normal(100), normal(200)]
    expected = measure(tensors, CPU)
    monkeypatch.setattr(choice, "_kernel_failures", [])
    # The package has a function of the module's name.
    module = sys.modules["tbtrainer.statistics.measure"]
    monkeypatch.setattr(module, "reader_of", lambda *_: KernelReader())
    monkeypatch.setattr(KernelReader, "measure_into", broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_equal(measure(tensors, CPU), expected)
    assert caplog.text.count("no compiler") == 1
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(tensors, CPU, backend="kernel")


COMPILED = """
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tbtrainer.statistics.readers import kernels

COMMON = {"table": "*i64", "POINTER": "constexpr", "BLOCK": "constexpr"}
KERNELS = {
    kernels._measure: (
        {**COMMON, "sums": "*fp64", "counts": "*i64", "buckets": "*i64", "ALIGNMENT": "constexpr"},
        {"ALIGNMENT": 16, "BLOCK": 2048},
    ),
    kernels._count_linear: (
        {**COMMON, "counts": "*i64", "low": "*fp64", "high": "*fp64"}, {"BLOCK": 1024}
    ),
}
for capability, dtypes in ((80, "float32 int16 float16"), (90, "float8e4nv float8e5")):
    for function, (signature, constants) in KERNELS.items():
        for dtype in dtypes.split():
            signature["loss_scale"] = "*fp32" if dtype == "float16" else "constexpr"
            values = {**constants, "POINTER": tl.pointer_type(getattr(tl, dtype))}
            if dtype != "float16":
                values["loss_scale"] = None
            order = {name: signature[name] for name in function.arg_names}
            source = ASTSource(fn=function, signature=order, constexprs=values)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert compiled.asm["cubin"]
            print(function.__name__, dtype)
"""


def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
