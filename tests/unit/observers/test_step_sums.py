"""Sums of chunks of steps, put together, are the sums of all steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tbtrainer.observers.step_sums import (
    KEPT_NORMS,
    StepSums,
    facts_of,
    host_facts,
    looks_overflowed,
)

NAN, INF = float("nan"), float("inf")
# Norms of one row: good, NaN, infinite.
VALUES = st.lists(st.sampled_from([1.0, 2.0, 3.0, NAN, INF]), min_size=1, max_size=60)


def lines_of(values: list[float]) -> Tensor:
    """Squares of steps with one row of these norms, and one of ones."""
    lines = torch.zeros(1 + len(values), 3, dtype=torch.float64)
    lines[1:, 0] = torch.tensor(values, dtype=torch.float64) ** 2
    lines[1:, 1] = 1.0
    return lines


def no_losses(steps: int) -> Tensor:
    losses = torch.zeros(steps, 6, dtype=torch.float64)
    losses[:, 3] = -1.0
    return losses


def sums_of(values: list[float], begin: int) -> StepSums:
    lines = lines_of(values)
    return StepSums.of(lines, facts_of(lines, no_losses(len(values))), begin)


def kept(sums: StepSums) -> list[list[float]]:
    used = int(sums.numbers[3])
    return torch.nan_to_num(sums.norms[KEPT_NORMS - used :], nan=-1.0).tolist()


@given(values=VALUES, sizes=st.lists(st.integers(1, 20), max_size=8))
def test_chunks_of_any_size_give_the_same_sums(values: list[float], sizes: list[int]) -> None:
    whole = sums_of(values, 0)
    parts, begin = None, 0
    for size in (*sizes, len(values)):
        chunk = values[begin : begin + size]
        if chunk:
            sums = sums_of(chunk, begin)
            parts = sums if parts is None else parts.then(sums)
        begin += size
    assert parts is not None
    torch.testing.assert_close(parts.rows, whole.rows)
    torch.testing.assert_close(parts.numbers, whole.numbers)
    assert kept(parts) == kept(whole)


def test_facts_are_those_of_each_step() -> None:
    lines = lines_of([3.0, NAN, INF])
    lines[3, 2] = 1.0  # A rank could not measure the last step.
    losses = no_losses(3)
    losses[0] = torch.tensor([2.0, 1.0, 0.5, -1.0, 0.0, 0.0])
    losses[1] = torch.tensor([NAN, 1.0, 0.0, 1.0, 1.0, 512.0])
    first, second, third = host_facts([7, 8, 9], facts_of(lines, losses).numpy())
    assert (first.step, first.loss, first.loss_spread) == (7, 2.0, 0.5)
    assert first.grad_norm == 10**0.5
    assert (first.loss_scale, first.was_skipped, first.is_bad) == (None, False, False)
    assert (second.loss_rank, second.loss_spread, second.loss_scale) == (1, None, 512.0)
    assert second.has_bad_gradient
    assert not second.looks_overflowed
    assert (third.loss, third.grad_norm, third.looks_overflowed) == (None, None, True)


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([1.0, 2.0, 3.0], False),
        ([INF, 2.0, 3.0], True),
        ([NAN, 2.0, 3.0], False),
        ([NAN, NAN, 3.0], False),
        ([1.0, 2.0, NAN], True),
        ([NAN, NAN, NAN], True),
        # The last parameters have no gradient.
        ([1.0, NAN, 0.0], True),
        ([NAN, 1.0, 0.0], False),
        ([0.0, 0.0, 0.0], False),
        ([NAN, 0.0, 0.0], True),
    ],
)
def test_an_overflow_is_told_by_the_norms(norms: list[float], expected: bool) -> None:
    lines = torch.tensor([[1.0, 1.0, 1.0], norms], dtype=torch.float64)
    assert looks_overflowed(lines).tolist() == [0.0, float(expected)]


def test_without_rows_nothing_overflows() -> None:
    assert looks_overflowed(torch.zeros(2, 0, dtype=torch.float64)).tolist() == [0.0, 0.0]
