"""The compiled norms are those of float64, and no memory is read that is not as planned."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer.statistics import norms
from tbtrainer.statistics.compiled_norms import CompiledNorms, is_readable, loaded_library
from tbtrainer.statistics.cpu_norms import CpuNorms
from tbtrainer.statistics.norm_values import KindChanged
from tbtrainer.statistics.norms import TensorNorms

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Around the sizes of an iteration and a chunk of the library.
SIZES = [1, 2, 3, 7, 8, 15, 16, 17, 33, 1000, 65_535, 65_536, 65_537, 200_003]

built = pytest.mark.skipif(loaded_library() is None, reason="the compiled reader was not built")


def norms_of(tensors: list[Tensor]) -> Tensor:
    """The norms of tensors that the library reads."""
    assert all(is_readable(tensor) for tensor in tensors)
    library = loaded_library()
    assert library is not None
    return CompiledNorms(dict(enumerate(tensors)), CPU, library).norms(tensors).clone()


def expected(tensors: list[Tensor]) -> Tensor:
    """The norms computed in float64."""
    return torch.stack([tensor.double().square().sum().sqrt() for tensor in tensors])


def values(size: int, dtype: torch.dtype) -> Tensor:
    """Values of many magnitudes, which float16 holds as well."""
    generator = torch.Generator().manual_seed(size)
    spread = torch.exp(2 * torch.randn(size, generator=generator))
    return (spread * torch.randn(size, generator=generator)).to(dtype)


@built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_of_any_size_are_right(dtype: torch.dtype) -> None:
    tensors = [values(size, dtype) for size in SIZES]
    torch.testing.assert_close(norms_of(tensors), expected(tensors), rtol=1e-13, atol=0)


@built
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("neighbours", [1, 2])
def test_every_number_of_two_bytes_is_read(dtype: torch.dtype, neighbours: int) -> None:
    # Two neighbours are converted by different instructions.
    every = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(dtype)
    alone = torch.zeros(len(every), neighbours, dtype=dtype)
    alone[:, -1] = every
    found = norms_of(list(alone.unbind()))
    torch.testing.assert_close(found, every.double().abs(), rtol=1e-14, atol=0, equal_nan=True)


@built
@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-24, 3.4e38])
def test_float32_squares_neither_overflow_nor_vanish(value: float) -> None:
    tensors = [torch.full((size,), value) for size in (5, 100_000)]
    torch.testing.assert_close(norms_of(tensors), expected(tensors), rtol=1e-12, atol=0)


@built
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 13, 70_001])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_value_not_finite_is_in_its_norm_alone(
    dtype: torch.dtype, place: int, value: float
) -> None:
    tensors = [torch.ones(70_002, dtype=dtype) for _ in range(3)]
    tensors[1][place] = value
    found = norms_of(tensors)
    torch.testing.assert_close(found, expected(tensors), equal_nan=True)


@built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dense_tensors_of_any_strides_are_read(dtype: torch.dtype) -> None:
    whole = values(960, dtype).view(6, 8, 4, 5)
    tensors = [
        whole.transpose(0, 2),
        whole.contiguous(memory_format=torch.channels_last),
        whole[2:4],
        whole[:, :1, :1, :1].contiguous().transpose(0, 3),
        whole[0, 0, 0, 0],
        torch.nn.Parameter(whole).detach(),
    ]
    torch.testing.assert_close(norms_of(tensors), expected(tensors), rtol=1e-13, atol=0)


@built
def test_elements_need_not_be_aligned() -> None:
    shifted = torch.frombuffer(bytearray(range(1, 202)), dtype=torch.float32, count=50, offset=1)
    torch.testing.assert_close(norms_of([shifted]), expected([shifted]))


@built
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    # Enough elements for three threads.
    tensors = [values(size, dtype) for size in (3_000_001, 70_000, 5, 140_000)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = norms_of(tensors)
    for threads in (2, 3, 8, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(norms_of(tensors), alone), threads


@built
@pytest.mark.parametrize("size", [70_000, 3_000_000])
@pytest.mark.parametrize("dtype, value", [(torch.float32, 1e-40), (torch.float16, 1e-7)], ids=str)
def test_subnormal_numbers_count_while_torch_flushes_them(
    dtype: torch.dtype, value: float, size: int
) -> None:
    tensors = [torch.full((size,), value, dtype=dtype)]
    right = expected(tensors)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        found = norms_of(tensors)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=0)


class Wrapped(Tensor):
    """A tensor of another class."""


def released(tensor: Tensor) -> Tensor:
    """The tensor, without its memory."""
    tensor.untyped_storage().resize_(0)
    return tensor


PLANNED: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.ones(4, 6),
    "transposed": lambda: torch.ones(6, 4).t(),
}
# Each is unlike both of the planned tensors.
CHANGED: dict[str, Callable[[], Tensor | None]] = {
    "none": lambda: None,
    "smaller": lambda: torch.ones(4, 5),
    "larger": lambda: torch.ones(4, 7),
    "empty": lambda: torch.ones(4, 0),
    "narrower-dtype": lambda: torch.ones(4, 6).half(),
    "bfloat16": lambda: torch.ones(4, 6).bfloat16(),
    "integer": lambda: torch.ones(4, 6).int(),
    "strided": lambda: torch.ones(8, 6)[::2],
    "transposed-strided": lambda: torch.ones(12, 4)[::2].t(),
    "expanded": lambda: torch.ones(4, 1).expand(4, 6),
    "overlapping": lambda: torch.ones(9).as_strided((4, 6), (1, 1)),
    "meta": lambda: torch.ones(4, 6, device="meta"),
    "sparse": lambda: torch.ones(4, 6).to_sparse(),
    "sparse-csr": lambda: torch.ones(4, 6).to_sparse_csr(),
    "subclass": lambda: torch.ones(4, 6).as_subclass(Wrapped),
    "mkldnn": lambda: torch.ones(4, 6).to_mkldnn(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:torch.quantize_per")
@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("planned", PLANNED)
def test_a_tensor_of_another_kind_is_not_read(planned: str, change: str) -> None:
    calls: list[object] = []
    library: Any = SimpleNamespace(tbtrainer_squares=lambda *arguments: calls.append(arguments))
    first = PLANNED[planned]()
    reader = CompiledNorms({0: torch.ones(3), 2: first}, CPU, library)
    reader.norms([torch.ones(3), None, first])
    with pytest.raises((KindChanged, RuntimeError)):
        reader.norms([torch.ones(3), None, CHANGED[change]()])
    assert len(calls) == 1


def equal_in_kind(tensors: list[Tensor], others: list[Tensor | None]) -> bool:
    """What the guards of a plan say of other tensors."""
    library: Any = SimpleNamespace(tbtrainer_squares=lambda *arguments: 0)
    reader = CompiledNorms(dict(enumerate(tensors)), CPU, library)
    return reader._are_equal_in_kind(*others)


@pytest.mark.parametrize("planned", PLANNED)
def test_new_tensors_of_one_kind_are_checked_in_one_call(planned: str) -> None:
    make = PLANNED[planned]
    assert equal_in_kind([make(), torch.ones(3)], [make(), torch.zeros(3)])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:torch.quantize_per")
@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("planned", PLANNED)
def test_the_one_call_tells_every_other_kind(planned: str, change: str) -> None:
    assert not equal_in_kind(
        [PLANNED[planned](), torch.ones(3)], [CHANGED[change](), torch.ones(3)]
    )


def test_tensors_that_the_guards_refuse_are_read_if_readable() -> None:
    calls: list[object] = []
    library: Any = SimpleNamespace(tbtrainer_squares=lambda *arguments: calls.append(arguments))
    reader = CompiledNorms(dict(enumerate([torch.ones(1, 4), torch.ones(3)])), CPU, library)
    other_stride = torch.ones(4).as_strided((1, 4), (9, 1))
    with_graph = torch.ones(3, requires_grad=True)
    assert not reader._are_equal_in_kind(other_stride, with_graph)
    reader.norms([other_stride, with_graph])
    assert len(calls) == 1


def test_kinds_are_checked_one_by_one_without_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._C._dynamo.guards", None)
    calls: list[object] = []
    library: Any = SimpleNamespace(tbtrainer_squares=lambda *arguments: calls.append(arguments))
    reader = CompiledNorms({0: torch.ones(3)}, CPU, library)
    reader.norms([torch.ones(3)])
    with pytest.raises(KindChanged):
        reader.norms([torch.ones(4)])
    assert len(calls) == 1


@built
@pytest.mark.parametrize("view", [lambda whole: whole, lambda whole: whole[2:]], ids=["0", "2"])
def test_a_tensor_whose_memory_was_released_is_not_read(view: Callable[[Tensor], Tensor]) -> None:
    measured, out = TensorNorms(2, CPU), torch.empty(2, dtype=torch.float64)
    parts = [torch.ones(4), view(torch.ones(11))]
    measured.into(out, parts)
    released(parts[1])
    measured.into(out, parts)
    assert out.tolist() == [2.0, 0.0]
    assert measured.unreadable == {1: "its memory was released"}


@built
def test_the_library_reads_what_it_can_and_pytorch_the_rest() -> None:
    tensors = [torch.ones(4), torch.ones(4) * 1j, torch.ones(8)[::2], torch.ones(9).half()]
    measured, out = TensorNorms(4, CPU), torch.empty(4, dtype=torch.float64)
    for _ in range(2):
        measured.into(out, tensors)
        assert out.tolist() == [2.0, 2.0, 2.0, 3.0]
    assert {type(reader): reader.index.tolist() for reader in measured._readers} == {
        CompiledNorms: [0, 3],
        CpuNorms: [1, 2],
    }


def test_pytorch_reads_all_tensors_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "loaded_library", lambda: None)
    measured, out = TensorNorms(1, CPU), torch.empty(1, dtype=torch.float64)
    measured.into(out, [torch.ones(4)])
    assert [type(reader) for reader in measured._readers] == [CpuNorms]
