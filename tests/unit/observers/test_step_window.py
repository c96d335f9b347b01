"""A window longer than its ring: sums, facts, and the norms up to the first bad step."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tbtrainer.observers import step_facts, step_window
from tbtrainer.observers.step_facts import StepsReading
from tbtrainer.observers.step_window import StepWindow
from tests.gradients import CPU

NAN = float("nan")
RING = 16


@pytest.fixture
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that folds after 16 steps."""
    monkeypatch.setattr(step_window, "_MOST_STEPS", RING)


def window_of(rows: int = 2, dtype: torch.dtype = torch.float64) -> StepWindow:
    return StepWindow(rows, dtype, 1.0, CPU, reduces=False)


def fill(
    window: StepWindow, steps: range, bad: int | None = None, loss: float | None = 1.0
) -> None:
    """Takes steps whose norms are their number and 1; one row of the bad step is NaN."""
    for step in steps:
        norms = window.new_step(step)
        norms.copy_(torch.tensor([float(step), NAN if step == bad else 1.0]))
        window.complete(step, None if loss is None else torch.tensor(loss * step), None, False)


def reading_of(window: StepWindow) -> StepsReading:
    reading = window.read()
    assert reading is not None
    return reading


def norms_by_step(reading: StepsReading) -> dict[int, float]:
    return {norms.step: float(norms.norms[0]) for norms in reading.last_norms}


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 32, 50])
def test_sums_and_facts_hold_all_steps(steps: int, small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, steps + 1))
    reading = reading_of(window)
    assert reading.finite_steps == steps
    numbers = np.arange(1, steps + 1)
    assert reading.squares.tolist() == pytest.approx([np.square(numbers).sum(), steps])
    assert [facts.step for facts in reading.steps] == numbers.tolist()
    assert [facts.loss for facts in reading.steps] == numbers.tolist()
    expected = np.sqrt(np.square(numbers) + 1)
    assert [facts.grad_norm for facts in reading.steps] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("steps", [1, 16, 17, 20, 33, 50])
def test_the_norms_of_the_last_steps_are_kept(steps: int, small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, steps + 1))
    last = range(max(steps - 16, 1), steps + 1)
    assert norms_by_step(reading_of(window)) == {step: step for step in last}


@pytest.mark.parametrize("bad", [1, 5, 16, 17, 18, 30, 33, 40])
def test_a_bad_step_is_found_with_the_steps_before(bad: int, small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, 41), bad=bad)
    reading = reading_of(window)
    assert reading.first_bad is not None
    assert reading.first_bad.step == bad
    assert norms_by_step(reading) == {step: step for step in range(max(bad - 16, 1), bad + 1)}
    assert np.isnan(reading.last_norms[-1].norms).tolist() == [False, True]
    assert reading.finite_steps == 39


def test_the_first_of_two_bad_steps_is_kept(small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, 20), bad=18)
    fill(window, range(20, 60), bad=40)
    assert max(norms_by_step(reading_of(window))) == 18


def test_of_a_very_long_window_the_last_steps_are_known(
    small_ring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_facts, "MOST_FACTS", 2 * RING)
    window = window_of()
    fill(window, range(1, 71))
    reading = reading_of(window)
    assert [facts.step for facts in reading.steps] == list(range(49, 71))
    assert reading.finite_steps == 70
    assert norms_by_step(reading) == {step: step for step in range(54, 71)}


def test_a_bad_step_that_is_dropped_has_no_norms(
    small_ring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_facts, "MOST_FACTS", RING)
    window = window_of()
    fill(window, range(1, 51), bad=3)
    reading = reading_of(window)
    assert reading.first_bad is None
    assert reading.last_norms == []


def test_a_reading_begins_a_new_window() -> None:
    window = window_of()
    fill(window, range(1, 4), bad=2)
    window.read()
    fill(window, range(4, 6))
    reading = reading_of(window)
    assert [facts.step for facts in reading.steps] == [4, 5]
    assert norms_by_step(reading) == {4: 4.0, 5: 5.0}
    assert window.read() is None


def test_a_model_without_readable_parameters_has_losses() -> None:
    window = window_of(rows=0)
    window.new_step(1)
    window.complete(1, torch.tensor(NAN), None, False)
    reading = reading_of(window)
    assert reading.steps[0].has_bad_loss
    assert len(reading.squares) == 0


def test_a_step_that_was_not_taken_has_no_loss() -> None:
    window = window_of()
    fill(window, range(1, 3), loss=None)
    window.complete(7, torch.tensor(1.0), None, False)
    assert [facts.loss for facts in reading_of(window).steps] == [None, None]


def test_the_newest_norms_are_those_of_the_last_step() -> None:
    window = window_of()
    fill(window, range(1, 4))
    assert window.newest().tolist() == [3.0, 1.0]


def test_a_missing_step_is_in_no_norm() -> None:
    window = window_of()
    fill(window, range(1, 3))
    window.mark_missing()
    reading = reading_of(window)
    assert [facts.grad_norm for facts in reading.steps] == [pytest.approx(2**0.5), None]
    assert not reading.steps[1].is_bad
    assert reading.finite_steps == 1


def test_a_row_unread_before_a_fold_stays_unread(small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, 3))
    window.mark_unread(1)
    fill(window, range(3, 40))
    assert reading_of(window).unread.tolist() == [False, True]


@pytest.mark.parametrize("rows", [1, 2_000, 500_000])
def test_the_memory_of_a_ring_is_bounded(rows: int) -> None:
    lines = window_of(rows)._lines
    assert len(lines) >= 1 + 16
    assert lines.nbytes <= 16 * 2**20 or len(lines) == 1 + 16


def test_all_is_read_in_one_copy(monkeypatch: pytest.MonkeyPatch, small_ring: None) -> None:
    window = window_of()
    fill(window, range(1, 40), bad=20)
    copies: list[int] = []
    original = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        copies.append(tensor.numel())
        return original(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    window.read()
    assert len(copies) == 1
