"""Norms of a rank that has no memory, or cannot read a gradient: collectives and numbers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tbtrainer.observers import step_window
from tbtrainer.sharding import ParameterTable, Row
from tbtrainer.sharding.plain import PlainAdapter
from tests.gradients import CPU, Norms, Unreadable, norms_of, set_gradients, summary_of, table_of


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
    "tensor": (torch, "tensor"),
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
    assert summary.steps == 1
    assert summary.total == pytest.approx((5 * 6 + 40_200) ** 0.5, rel=1e-6)
    assert one_rank == [2 * (len(rows) + 1)] * 2


def steps_with_a_failed_fold(
    norms: Norms, table: ParameterTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes 20 steps, of which the first 16 are lost after their collective."""
    for step in range(20):
        with monkeypatch.context() as patch, contextlib.suppress(torch.OutOfMemoryError):
            if step == 16:
                patch.setattr(torch, "stack", no_memory)
            norms.accumulate(table.gradients())


def test_a_window_with_a_failed_fold_shows_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_window, "_MOST_STEPS", 16)
    model = nn.Linear(40, 500, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    set_gradients(model, 1.0)
    steps_with_a_failed_fold(norms, table, monkeypatch)
    assert norms.summary() is None
    norms.accumulate(table.gradients())
    assert summary_of(norms).steps == 1


def test_sums_of_a_failed_window_are_not_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_window, "_MOST_STEPS", 16)
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
    window = step_window.StepWindow(2, torch.float32, 1.0, CPU, reduces=True)
    window.new_step(1).fill_(1.0)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(Tensor, "copy_", no_memory)
        window.read()
    assert one_rank == [2 * 3]


def test_a_step_that_failed_is_in_no_number(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table, errors="warn")
    set_gradients(model, 1.0)
    norms.accumulate(table.gradients())
    norms.accumulate(None)
    summary = summary_of(norms)
    assert summary.steps == 1
    assert summary.total == pytest.approx(2.0)
    assert "could not be read" in caplog.text
