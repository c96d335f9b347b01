"""Norms are right to 1e-6 for every layout and dtype, and planned anew when the kind changes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tbtrainer.statistics import norms
from tbtrainer.statistics.accelerator_norms import AcceleratorNorms
from tbtrainer.statistics.compiled_norms import CompiledNorms, loaded_library
from tbtrainer.statistics.cpu_norms import CpuNorms
from tbtrainer.statistics.norms import TensorNorms
from tests import without_float64

CPU = torch.device("cpu")


@pytest.fixture(params=["C", "PyTorch"], scope="module")
def cpu_reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """The technique that reads tensors in main memory."""
    if request.param == "C" and loaded_library() is None:
        pytest.skip("the compiled reader was not built")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "PyTorch":
            patch.setattr(norms, "loaded_library", lambda: None)
        yield request.param


with_both_readers = pytest.mark.usefixtures("cpu_reader")


def seeded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


KINDS: dict[str, Tensor] = {
    "small": seeded(16, 16),
    "large": seeded(1000, 999),
    "channels-last": seeded(64, 32, 3, 3).to(memory_format=torch.channels_last),
    "channels-last-small": seeded(8, 4, 3, 3).to(memory_format=torch.channels_last),
    "transposed": seeded(600, 700).t(),
    "transposed-bfloat16": seeded(600, 700, dtype=torch.bfloat16).t(),
    "every-second": seeded(600, 600)[::2, 1::3],
    "expanded": seeded(1, 300).expand(300, 300),
    "bfloat16": seeded(300, 400, dtype=torch.bfloat16),
    "float16": (100 * seeded(300, 400)).to(torch.float16),
    "float64": seeded(300, 400, dtype=torch.float64),
    "float8": seeded(300, 400).to(torch.float8_e4m3fn),
    "constant": torch.full((4_000_000,), 0.1),
    "constant-small": torch.full((9_001,), 0.1),
    "largest": torch.full((70_000,), 3.4e38),
    "largest-small": torch.full((70,), 3.4e38),
    "tiny": torch.full((70_000,), 1e-24),
    "tiny-small": torch.full((70,), 1e-24),
    "one-large-among-tiny": torch.cat([torch.full((70_000,), 1e-24), torch.ones(1)]),
    "zeros": torch.zeros(70_000),
    "complex64": seeded(50, dtype=torch.complex64) * (1 + 2j),
    "complex128-large": seeded(20_000, dtype=torch.complex128) * (1 + 2j),
    "conjugated": (seeded(50, dtype=torch.complex64) * 1j).conj(),
    "scalar": torch.tensor(-3.0),
    "no-lanes": seeded(10_007),
    "long-lanes": seeded(64, 200),
    "bfloat16-small": seeded(32, 32, dtype=torch.bfloat16),
    "float64-small": 1e30 * seeded(32, 32, dtype=torch.float64),
    "tiny-and-zeros": torch.cat([torch.full((300,), 1e-24), torch.zeros(212)]),
    "transposed-medium": seeded(256, 300).t(),
}


def reference(tensor: Tensor) -> float:
    """The norm by the shortest way, in float64."""
    tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    flat = tensor.to(torch.float64).contiguous().view(-1)
    return float(torch.dot(flat, flat)) ** 0.5


def norms_of(*tensors: Tensor | None) -> list[float]:
    out = torch.empty(len(tensors), dtype=torch.float64, device=CPU)
    TensorNorms(len(tensors), CPU).into(out, tensors)
    return out.tolist()


@with_both_readers
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_is_right_for_every_kind(kind: str) -> None:
    assert norms_of(KINDS[kind]) == pytest.approx([reference(KINDS[kind])], rel=1e-6, abs=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zeros"])
def test_an_accelerator_adds_up_in_float64(kind: str) -> None:
    # The reader of accelerators, given tensors that the CPU can check.
    found = AcceleratorNorms({0: KINDS[kind]}, CPU, CPU).norms([KINDS[kind]])
    assert found.tolist() == pytest.approx([reference(KINDS[kind])], rel=1e-6)


@with_both_readers
def test_norms_of_all_kinds_together_are_right() -> None:
    found = norms_of(*KINDS.values(), *KINDS.values())
    expected = [reference(tensor) for tensor in KINDS.values()]
    assert found == pytest.approx(2 * expected, rel=1e-6, abs=0)


@with_both_readers
@given(shapes=st.lists(st.lists(st.integers(0, 40), max_size=3), max_size=30))
@settings(deadline=None)
def test_norms_of_small_tensors_read_together_are_right(shapes: list[list[int]]) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    assert norms_of(*tensors) == pytest.approx([reference(t) for t in tensors], rel=1e-6)


@with_both_readers
@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].numel() <= 20_000])
def test_a_kind_is_right_in_a_batch_of_its_shape(kind: str) -> None:
    tensors = [KINDS[kind], *(torch.ones_like(KINDS[kind], dtype=torch.float32) for _ in range(4))]
    tensors[1:] = [tensor.to(KINDS[kind].dtype) for tensor in tensors[1:]]
    assert norms_of(*tensors) == pytest.approx([reference(t) for t in tensors], rel=1e-6, abs=0)


@with_both_readers
def test_many_tensors_of_one_shape_are_read_in_several_batches() -> None:
    tensors = list(seeded(30, 100, 101))
    assert norms_of(*tensors) == pytest.approx([reference(t) for t in tensors], rel=1e-6)


@with_both_readers
def test_none_and_an_empty_tensor_have_no_norm() -> None:
    assert norms_of(None, torch.ones(4), torch.empty(0, 3)) == [0.0, 2.0, 0.0]


@with_both_readers
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [50, 50_000])
def test_a_value_that_is_not_finite_is_seen(value: float, size: int) -> None:
    tensor = torch.ones(size)
    tensor[-1] = value
    found = norms_of(tensor, torch.ones(4), torch.ones(4))
    assert not torch.tensor(found[0]).isfinite()
    assert found[1:] == [2.0, 2.0]


def sparse() -> Tensor:
    """Rows one, one and two of five; row one is given twice."""
    rows = torch.tensor([[1, 1, 2]])
    return torch.sparse_coo_tensor(rows, seeded(3, 4), (5, 4), check_invariants=True)


def test_elements_of_a_sparse_tensor_given_twice_are_added() -> None:
    tensor = sparse()
    assert norms_of(tensor) == pytest.approx([reference(tensor)], rel=1e-6)
    assert not tensor.is_coalesced()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_compressed_sparse_tensor_has_a_norm() -> None:
    dense = torch.eye(5) * 3
    assert norms_of(dense.to_sparse_csr()) == pytest.approx([reference(dense)], rel=1e-6)


@with_both_readers
def test_a_tensor_without_readable_elements_is_named() -> None:
    measured = TensorNorms(3, CPU)
    out = torch.empty(3, dtype=torch.float64)
    measured.into(out, [torch.ones(4), torch.ones(4, device="meta"), torch.ones(4).int()])
    assert out.tolist() == [2.0, 0.0, 0.0]
    assert set(measured.unreadable) == {1, 2}
    measured.into(out, [torch.ones(4), None, torch.ones(4)])
    assert out.tolist() == [2.0, 0.0, 2.0]
    assert measured.unreadable == {}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each plan that is made."""
    made: list[int] = []

    def counted(reader: Any) -> Any:
        def new(*args: Any) -> Any:
            made.append(1)
            return reader(*args)

        return new

    monkeypatch.setattr(norms, "CpuNorms", counted(CpuNorms))
    monkeypatch.setattr(norms, "CompiledNorms", counted(CompiledNorms))
    return made


@with_both_readers
def test_a_plan_is_made_once_for_tensors_of_one_kind(plans: list[int]) -> None:
    measured = TensorNorms(6, CPU)
    out = torch.empty(6, dtype=torch.float64)
    for step in range(3):
        tensors = [torch.full((4,), float(step))] * 4 + [torch.full((20_000,), 1.0), torch.ones(3)]
        measured.into(out, tensors)
        assert out.tolist() == pytest.approx([reference(t) for t in tensors])
    assert len(plans) == 1


CHANGES: dict[str, tuple[Tensor | None, Tensor | None]] = {
    "absent": (torch.ones(4), None),
    "present": (None, torch.ones(4)),
    "larger": (torch.ones(4), torch.ones(9)),
    "one-element": (torch.ones(512), torch.full((1,), 2.0)),
    "no-longer-empty": (torch.empty(0), torch.ones(4)),
    "larger-in-place": (torch.ones(20_000), torch.ones(40_000)),
    "float64-in-place": (torch.ones(20_000), torch.full((20_000,), 1e30, dtype=torch.float64)),
    "meets-float64": (torch.ones(4), torch.full((4,), 1e30, dtype=torch.float64)),
    "bfloat16": (torch.ones(4), torch.ones(4).bfloat16() / 3),
    "complex": (torch.ones(4), torch.ones(4) * (1 + 1j)),
    "complex-large": (torch.ones(20_000), torch.ones(20_000) * (1 + 1j)),
    "sparse": (torch.ones(5, 4), sparse()),
    "dense": (sparse(), torch.ones(5, 4)),
    "transposed": (seeded(200, 300), seeded(300, 200).t()),
    "bfloat16-large": (torch.ones(20_000), torch.ones(20_000).bfloat16() / 3),
    "strided": (seeded(30, 40), seeded(60, 40)[::2]),
    "transposed-strided": (seeded(30, 40).t(), seeded(60, 40)[::2].t()),
}


@with_both_readers
@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("change", CHANGES)
def test_norms_stay_right_when_the_kind_changes(change: str, copies: int) -> None:
    before, after = CHANGES[change]
    lists = [[tensor] * copies + [torch.ones(9)] for tensor in (before, after, before)]
    measured = TensorNorms(copies + 1, CPU)
    out = torch.empty(copies + 1, dtype=torch.float64)
    for tensors in lists:
        measured.into(out, tensors)
        expected = [0.0 if tensor is None else reference(tensor) for tensor in tensors]
        assert out.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    without_float64.pretend(monkeypatch)


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "64" not in kind and "128" not in kind])
def test_a_device_without_float64_has_norms(kind: str) -> None:
    measured = TensorNorms(2, CPU)
    out = torch.zeros(2, dtype=measured.dtype)
    with without_float64.Refusing():
        for _ in range(2):
            measured.into(out, [KINDS[kind], None])
    in_units = out.to(torch.float64) * measured.unit
    assert in_units.tolist() == pytest.approx([reference(KINDS[kind]), 0.0], rel=1e-6)


class Counting(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation."""
        self.operations += 1
        return func(*args, **(kwargs or {}))


def operations_of_a_step(count: int) -> int:
    """Operations of a step after the first one, with so many tensors of each of two shapes."""
    tensors = [torch.ones(8, 4) for _ in range(count)] + [torch.ones(64) for _ in range(count)]
    measured = TensorNorms(2 * count, CPU)
    out = torch.zeros(2 * count, dtype=measured.dtype)
    measured.into(out, tensors)
    with Counting() as counting:
        measured.into(out, tensors)
    return counting.operations


@with_both_readers
def test_the_number_of_operations_does_not_grow_with_the_tensors() -> None:
    assert operations_of_a_step(100) == operations_of_a_step(10)


@pytest.mark.usefixtures("no_float64")
def test_a_device_without_float64_makes_few_operations() -> None:
    assert operations_of_a_step(100) == operations_of_a_step(10)


@pytest.mark.usefixtures("no_float64")
def test_a_device_without_float64_sees_what_is_not_finite() -> None:
    measured = TensorNorms(2, CPU)
    out = torch.zeros(2, dtype=measured.dtype)
    measured.into(out, [torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf])])
    assert not out.isfinite().any()


@with_both_readers
def test_a_default_device_changes_nothing() -> None:
    with torch.device("meta"):
        found = norms_of(KINDS["large"], KINDS["small"])
    assert found == pytest.approx([reference(KINDS["large"]), reference(KINDS["small"])], rel=1e-6)
