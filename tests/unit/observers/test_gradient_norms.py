"""Norms of a logging window: what is shown, what is left out, and ranks that fail."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.isolation import Isolation
from tbtrainer.observers import gradient_norms, norm_window
from tbtrainer.observers.gradient_norms import GradientNorms, GradientNormSummary
from tbtrainer.sharding import ParameterTable, Row, UnsupportedTensor, parameter_table
from tbtrainer.sharding.plain import PlainAdapter
from tests import without_float64

CPU = torch.device("cpu")


class Layers(nn.Module):
    """Two blocks of two parameters, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


def table_of(model: nn.Module) -> ParameterTable:
    return parameter_table(model, is_world_process_zero=True)


def norms_of(
    table: ParameterTable, detail: str = "block", max_norm: float = 0.0, errors: str = "raise"
) -> GradientNorms:
    return GradientNorms(table, detail, max_norm, CPU, Isolation(errors))


def set_gradients(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)


def summary_of(norms: GradientNorms) -> GradientNormSummary:
    summary = norms.summary()
    assert summary is not None
    return summary


def test_norms_are_the_rms_over_the_steps_by_block() -> None:
    model = Layers()
    table = table_of(model)
    norms = norms_of(table)
    for value in (1.0, 3.0):
        set_gradients(model, value)
        norms.accumulate(table.gradients())
    summary = summary_of(norms)
    rms = 5**0.5  # Of 1 and 3.
    expected = {"embed": rms * 12**0.5, "layers.0": rms * 6**0.5, "layers.1": rms * 6**0.5}
    assert summary.rms == pytest.approx(expected)
    assert summary.total == pytest.approx(rms * 24**0.5)
    assert summary.maximum == pytest.approx(3 * 24**0.5)
    assert (summary.steps, summary.nonfinite_steps) == (2, 0)


def test_norms_are_kept_by_parameter_whatever_is_shown() -> None:
    model = Layers()
    table = table_of(model)
    set_gradients(model, 2.0)
    norms = norms_of(table, detail="total")
    norms.accumulate(table.gradients())
    window = norms._window.taken()
    assert window is not None
    assert window.squares.tolist() == pytest.approx([48.0, 16.0, 8.0, 16.0, 8.0])


def test_a_window_without_a_step_has_no_norms() -> None:
    norms = norms_of(table_of(Layers()))
    assert norms.summary() is None


def test_clipping_is_that_of_the_total() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table, max_norm=1.0)
    for value in (0.25, 2.0):
        set_gradients(model, value)
        norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert summary.clipped == pytest.approx(((0.25 + 1.0) / 2) ** 0.5)
    assert summary.clip_fraction == 0.5


def test_the_loss_scale_is_taken_out() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    set_gradients(model, 1024.0)
    norms = norms_of(table)
    norms.accumulate(table.gradients(), torch.tensor(1024.0))
    assert summary_of(norms).total == pytest.approx(2.0)


def test_a_step_that_is_not_finite_is_only_counted() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    for value in (1.0, float("nan"), float("inf")):
        set_gradients(model, value)
        norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert (summary.steps, summary.nonfinite_steps) == (1, 2)
    assert summary.total == pytest.approx(2.0)


def test_the_largest_finite_gradients_are_no_infinity() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    set_gradients(model, 3e38)
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    assert summary_of(norms).nonfinite_steps == 0
    set_gradients(model, 1e-24)
    norms.accumulate(table.gradients())
    assert summary_of(norms).total == pytest.approx(2e-24, rel=1e-6)


def test_more_steps_than_are_kept_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_window, "_MOST_STEPS", 16)
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    for step in range(40):
        set_gradients(model, float(step))
        norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert summary.steps == 40
    assert summary.maximum == pytest.approx(78.0)
    assert norms.summary() is None


@pytest.mark.parametrize("rows", [1, 300, 10_000, 1_000_000])
def test_the_steps_kept_are_few_bytes(rows: int) -> None:
    window = norm_window.NormWindow(rows, torch.float64, 1.0, CPU, 0.0, False)
    steps, columns = window._lines.shape
    assert steps >= 17
    assert steps == 17 or 8 * (steps - 1) * columns <= 16 * 2**20


def test_frozen_blocks_have_no_norm() -> None:
    model = Layers()
    model.layers[0].requires_grad_(False)
    table = table_of(model)
    norms = norms_of(table)
    set_gradients(model, 1.0)
    norms.accumulate(table.gradients())
    assert set(summary_of(norms).rms) == {"embed", "layers.1"}
    model.layers[0].requires_grad_(True)
    set_gradients(model, 1.0)
    norms.accumulate(table.gradients())
    assert set(summary_of(norms).rms) == {"embed", "layers.0", "layers.1"}


def test_sparse_and_complex_gradients_are_in_the_total() -> None:
    model = nn.Module()
    model.words = nn.Embedding(6, 2, sparse=True)
    model.wave = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    (model.words(torch.tensor([1, 1, 2])).sum() + model.wave.real.sum()).backward()
    model.wave.grad = torch.full((3,), 3 + 4j)
    table = table_of(model)
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    summary = summary_of(norms)
    # The row given twice has gradients of 2.
    assert summary.total == pytest.approx((2 * 4 + 2 * 1 + 3 * 25) ** 0.5, rel=1e-6)
    assert not model.words.weight.grad.is_coalesced()


class PackedParameter(nn.Parameter):
    """Stands for a tensor subclass, whose bytes need not be its values."""


@pytest.mark.parametrize("trained", [True, False])
def test_totals_are_left_out_while_a_trained_tensor_is_refused(
    trained: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = Layers()
    model.layers[1].weight = PackedParameter(torch.zeros(2, 2), requires_grad=trained)
    table = table_of(model)
    norms = norms_of(table, max_norm=1.0)
    caplog.clear()
    for _ in range(2):
        set_gradients(model, 1.0)
        norms.accumulate(table.gradients())
        summary = summary_of(norms)
    totals = (summary.total, summary.maximum, summary.clipped, summary.clip_fraction)
    if trained:
        assert totals == (None,) * 4
        # The block with the refused tensor is not known either.
        assert set(summary.rms) == {"embed", "layers.0"}
        (record,) = caplog.records
        assert "layers.1.weight" in record.getMessage()
        assert "PackedParameter" in record.getMessage()
    else:
        assert None not in totals
        assert caplog.records == []


class Unreadable(PlainAdapter):
    """Stands for a mode whose gradients lie in an unknown place."""

    def gradient_part(self, parameter: Tensor) -> Tensor:
        raise UnsupportedTensor("it is kept in another way")


class OnNvme(PlainAdapter):
    """Stands for a mode whose gradients cannot be read."""

    gradient_problem = "they are on NVMe"


@pytest.mark.parametrize("adapter", [Unreadable(True), OnNvme(True)])
def test_totals_are_left_out_when_a_gradient_is_unread(adapter: PlainAdapter) -> None:
    model = Layers()
    table = table_of(model)
    last = table.rows[-1]
    table.rows[-1] = Row(last.name, last.parameter, last.global_count, adapter)
    norms = norms_of(table)
    set_gradients(model, 1.0)
    norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert summary.total is None
    assert set(summary.rms) == {"embed", "layers.0"}


def test_a_meta_gradient_is_no_silent_zero(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    set_gradients(model, 1.0)
    table = table_of(model)
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert summary.total is None
    assert set(summary.rms) == {"0"}
    assert "meta device" in caplog.text


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A process group of this process alone; gives the sizes of its collectives."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    sizes: list[int] = []
    original = dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(dist, "all_reduce", counted)
    yield sizes
    dist.destroy_process_group()


class Sharded(PlainAdapter):
    """Stands for a way of sharding, so that norms are reduced."""

    is_sharded = True


def no_memory(*_: object, **__: object) -> Any:
    raise torch.OutOfMemoryError("no room")


# Everything that allocates between the gradients and the collective.
ALLOCATIONS = {
    "stack": (torch, "stack"),
    "cat": (torch, "cat"),
    "empty": (torch, "empty"),
    "zeros": (torch, "zeros"),
    "full": (torch, "full"),
    "tensor": (torch, "tensor"),
    "clone": (Tensor, "clone"),
    "to": (Tensor, "to"),
    "sum": (Tensor, "sum"),
    "vector_norm": (torch.linalg, "vector_norm"),
    "dot": (torch, "dot"),
}


@pytest.mark.parametrize("place", ALLOCATIONS)
def test_a_rank_without_memory_reaches_the_collective(
    place: str, one_rank: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.ModuleList([nn.Linear(2, 2) for _ in range(5)] + [nn.Linear(200, 200)])
    rows = [Row(n, p, p.numel(), Sharded(True)) for n, p in model.named_parameters()]
    table = ParameterTable(rows)
    norms = norms_of(table, errors="warn")
    set_gradients(model, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(*ALLOCATIONS[place], no_memory)
        norms.accumulate(table.gradients())
        # `summary` may fail on such a rank, but not before the collective.
        with contextlib.suppress(torch.OutOfMemoryError):
            norms.summary()
    assert one_rank == [2 * (len(rows) + 1)]
    norms.accumulate(table.gradients())
    summary = summary_of(norms)
    assert (summary.steps, summary.nonfinite_steps) == (1, 0)
    assert summary.total == pytest.approx((5 * 6 + 40_200) ** 0.5, rel=1e-6)
    assert one_rank == [2 * (len(rows) + 1)] * 2


def steps_with_a_failed_fold(
    norms: GradientNorms, table: ParameterTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes 20 steps, of which the first 16 are lost after their collective."""
    for step in range(20):
        with monkeypatch.context() as patch, contextlib.suppress(torch.OutOfMemoryError):
            if step == 15:
                patch.setattr(torch, "stack", no_memory)
            norms.accumulate(table.gradients())


def test_a_window_with_a_failed_fold_shows_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_window, "_MOST_STEPS", 16)
    model = nn.Linear(40, 500, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    set_gradients(model, 1.0)
    steps_with_a_failed_fold(norms, table, monkeypatch)
    assert norms.summary() is None
    norms.accumulate(table.gradients())
    assert summary_of(norms).steps == 1


def test_sums_of_a_failed_window_are_not_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_window, "_MOST_STEPS", 16)
    model = nn.Linear(40, 500, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    set_gradients(model, 1.0)
    for _ in range(17):
        norms.accumulate(table.gradients())
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "stack", no_memory)
        norms.summary()
    norms.accumulate(table.gradients())
    assert summary_of(norms).steps == 1


def test_an_unread_gradient_is_missing_after_a_failed_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(40, 500, bias=False)
    parameter = model.weight
    table = ParameterTable([Row("weight", parameter, parameter.numel(), Unreadable(True))])
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "stack", no_memory)
        norms.summary()
    norms.accumulate(table.gradients())
    assert summary_of(norms).total is None


def test_a_failed_copy_to_the_host_reaches_the_collective(
    one_rank: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    window = norm_window.NormWindow(2, torch.float32, 1.0, CPU, 0.0, reduces=True)
    with window.step() as norms:
        norms.fill_(1.0)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(Tensor, "copy_", no_memory)
        window.taken()
    assert one_rank == [2 * 3]


def test_a_step_that_failed_is_in_no_number(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table, errors="warn")
    set_gradients(model, 1.0)
    norms.accumulate(table.gradients())
    norms.accumulate(None)
    summary = summary_of(norms)
    assert (summary.steps, summary.nonfinite_steps) == (1, 0)
    assert summary.total == pytest.approx(2.0)
    assert "could not be read" in caplog.text


def test_nothing_is_kept_of_the_gradients() -> None:
    model = Layers()
    table = table_of(model)
    set_gradients(model, 1.0)
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    set_gradients(model, 5.0)
    assert summary_of(norms).total == pytest.approx(24**0.5)


@pytest.mark.parametrize("value", [1e-24, 1.0, 3e38])
def test_a_device_without_float64_has_norms_of_a_window(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_float64.pretend(monkeypatch)
    model = Layers()
    table = table_of(model)
    norms = norms_of(table)
    set_gradients(model, value)
    # Between logging steps nothing is in float64; at a logging step the norms are on the host.
    with without_float64.Refusing():
        norms.accumulate(table.gradients(), torch.tensor(4.0))
        norms.accumulate(table.gradients(), torch.tensor(4.0))
    summary = summary_of(norms)
    assert (summary.steps, summary.nonfinite_steps) == (2, 0)
    assert summary.total == pytest.approx(value / 4 * 24**0.5, rel=1e-6)


def test_groups_are_named_by_the_detail() -> None:
    group_of: Callable[[str, str], str] = gradient_norms._group_of
    name = "model.layers.3.mlp.weight"
    found = [group_of(name, detail) for detail in ("total", "block", "parameter")]
    assert found == ["total", "model.layers.3", name]
