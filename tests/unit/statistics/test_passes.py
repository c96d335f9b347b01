"""How the pass is made: without waiting, without copies, and alike however it is shared out."""

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tbtrainer.statistics import TensorStatistics, measure, measure_linear
from tbtrainer.statistics.readers import cpu, cpu_small, pytorch
from tbtrainer.statistics.readers.choice import Backend
from tbtrainer.statistics.readers.pieces import pieces

CPU = torch.device("cpu")
FIELDS = ("count", "zeros", "nonfinite", "sum", "sum_of_squares", "minimum", "maximum", "buckets")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(found: TensorStatistics, expected: TensorStatistics) -> None:
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-9, msg=name
        )


def strided_view(data: st.DataObject) -> torch.Tensor:
    """A view of any dimensions, order, steps and repetitions."""
    shape = data.draw(st.lists(st.integers(1, 7), min_size=0, max_size=4))
    view = normal(*[2 * side for side in shape])
    view = view.permute(data.draw(st.permutations(range(view.dim()))))
    for dimension in range(view.dim()):
        step = data.draw(st.integers(1, 3))
        view = view[(slice(None),) * dimension + (slice(None, None, step),)]
    if data.draw(st.booleans()):
        view = view.unsqueeze(0).expand(3, *view.shape)
    return view


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 50), st.integers(1, 50))
def test_the_pieces_of_a_tensor_hold_every_element_once(
    data: st.DataObject, most: int, most_copied: int
) -> None:
    view = strided_view(data)
    found = [piece.reshape(-1) for piece in pieces(view, most, most_copied)]
    assert max(piece.numel() for piece in found) <= max(most, most_copied)
    torch.testing.assert_close(torch.cat(found).sort()[0], view.reshape(-1).sort()[0])


def test_a_transposed_tensor_is_read_without_a_copy() -> None:
    tensor = normal(40, 50)
    found = list(pieces(tensor.t(), 300, 300))
    assert len(found) > 1
    for piece in found:
        assert piece.reshape(-1).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32])
def test_threads_and_chunks_change_no_number(
    monkeypatch: pytest.MonkeyPatch, threads: int, dtype: torch.dtype
) -> None:
    tensors = [(normal(300, 11 + row, seed=row) * 9).to(dtype) for row in range(4)]
    tensors.append(tensors[0][::2, 1::3])
    expected = measure(tensors, CPU, backend="plain")
    monkeypatch.setattr(cpu_small, "SMALL_MAX_ELEMENTS", 0)
    monkeypatch.setattr(cpu, "CHUNK", 64)
    monkeypatch.setattr(cpu, "_TORCH_SERIAL", 24)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = [measure(tensors, CPU, backend="plain") for _ in range(2)]
    assert_same(found[0], expected)
    for name in FIELDS:
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, chunk: int) -> tuple[float, float]:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("a thread's own")
        return 0.0, 0.0

    monkeypatch.setattr(cpu._ChunkReader, "read", fail)
    monkeypatch.setattr(cpu, "CHUNK", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    with pytest.raises(MemoryError):
        measure([normal(300, 300)], CPU, backend="plain")


def test_the_number_of_threads_of_torch_stays_what_it_is() -> None:
    before = torch.get_num_threads()
    measure([normal(1000, 1000)], CPU)
    assert torch.get_num_threads() == before
    in_another_thread: list[int] = []
    thread = threading.Thread(target=lambda: in_another_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_another_thread == [before]


class LargestAllocation(TorchDispatchMode):
    """Notes the size of the largest tensor an operation allocates."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.bytes = 0
        self._known = {t.untyped_storage().data_ptr() for t in known}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("strided", [False, True], ids=["whole", "strided"])
@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_no_memory_in_proportion_to_the_tensor_is_taken(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, strided: bool, backend: Backend
) -> None:
    tensor = torch.ones(4096, 4096, dtype=dtype)
    view = tensor[:, ::2] if strided else tensor
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    tracemalloc.start()
    with LargestAllocation(tensor) as torch_memory:
        measure([view], CPU, backend=backend)
    _, numpy_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch_memory.bytes <= 2**21
    assert numpy_bytes <= 2**23


@pytest.mark.parametrize("loss_scale", [None, 1024.0])
def test_another_device_is_never_waited_for(
    monkeypatch: pytest.MonkeyPatch, loss_scale: float | None
) -> None:
    # The meta device has no values: what would have to wait for one raises.
    monkeypatch.setattr(pytorch, "CHUNK", 2**15)
    device = torch.device("meta")
    tensors: list[torch.Tensor | None] = [
        torch.empty(size, dtype=dtype, device=device)
        for size in (3, 1000, 40_000)
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int8)
    ]
    tensors += [None, torch.empty(300, 300, device=device).t()[::2]]
    scale = None if loss_scale is None else torch.full((), loss_scale, device=device)
    found = measure(tensors, device, scale)
    linear = measure_linear(tensors, found.minimum, found.maximum, scale)
    assert linear.device == found.buckets.device == device


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32), max_size=20), min_size=1, max_size=5),
    st.booleans(),
    st.integers(3, 9),
)
def test_every_device_finds_the_same(rows: list[list[float]], batched: bool, chunk: int) -> None:
    tensors = [torch.tensor(row, dtype=torch.float32) for row in rows if row]
    if not tensors:
        return
    expected = measure(tensors, CPU)
    linear = measure_linear(tensors, expected.minimum, expected.maximum)
    found = TensorStatistics.empty(len(tensors), CPU)
    linear_found = torch.zeros_like(linear)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch, "CHUNK", chunk)
        patch.setattr(pytorch, "SMALL_MAX_ELEMENTS", 100 if batched else 0)
        reader, rows = pytorch.PytorchReader(), range(len(tensors))
        reader.measure_into(found, rows, tensors, None)
        ends = expected.minimum, expected.maximum
        reader.linear_into(linear_found, rows, tensors, *ends, None)
    for name in set(FIELDS) - {"sum", "sum_of_squares"}:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    scale = [float(np.abs(t[t.isfinite()].double().numpy()).sum()) for t in tensors]
    for row, size in enumerate(scale):
        assert abs(found.sum[row] - expected.sum[row]) <= 1e-12 * size
    torch.testing.assert_close(found.sum_of_squares, expected.sum_of_squares, rtol=1e-12, atol=0)
    assert torch.equal(linear_found, linear)


def test_full_determinism_does_not_stand_in_the_way() -> None:
    tensor = normal(200, 200)
    expected = measure([tensor], CPU)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(measure([tensor], CPU), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_without_being_waited_for() -> None:
    tensors = [normal(500, 701), normal(100).bfloat16(), normal(60, 70).t(), normal(3).double()]
    tensors[0][0, :3] = torch.tensor([torch.nan, torch.inf, 0.0])
    expected = measure(tensors, CPU)
    on_device = [tensor.cuda() for tensor in tensors]
    device = on_device[0].device
    measure(on_device, device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = measure(on_device, device)
        linear = measure_linear(on_device, found.minimum, found.maximum)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(found.to(CPU), expected)
    assert torch.equal(linear.cpu(), measure_linear(tensors, expected.minimum, expected.maximum))
