"""Norms of a logging window: what is shown, and what is left out."""

import pytest
import torch
from torch import nn

from tbtrainer.observers import norm_summary, step_window
from tbtrainer.sharding import Row
from tbtrainer.sharding.plain import PlainAdapter
from tests import without_float64
from tests.gradients import CPU, Layers, Unreadable, norms_of, set_gradients, summary_of, table_of


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
    assert summary.steps == 2


def test_norms_are_kept_by_parameter_whatever_is_shown() -> None:
    model = Layers()
    table = table_of(model)
    set_gradients(model, 2.0)
    norms = norms_of(table, detail="total")
    norms.accumulate(table.gradients())
    reading = norms.read()
    assert reading is not None
    assert reading.squares.tolist() == pytest.approx([48.0, 16.0, 8.0, 16.0, 8.0])


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


def test_a_step_that_is_not_finite_is_in_no_sum() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    norms = norms_of(table)
    for value in (1.0, float("nan"), float("inf")):
        set_gradients(model, value)
        norms.accumulate(table.gradients())
    reading = norms.read()
    assert reading is not None
    assert reading.finite_steps == 1
    assert [facts.has_bad_gradient for facts in reading.steps] == [False, True, True]
    assert reading.squares.sum() == pytest.approx(4.0)


def test_the_largest_finite_gradients_are_no_infinity() -> None:
    model = nn.Linear(4, 1, bias=False)
    table = table_of(model)
    set_gradients(model, 3e38)
    norms = norms_of(table)
    norms.accumulate(table.gradients())
    assert summary_of(norms).total == pytest.approx(6e38, rel=1e-6)
    set_gradients(model, 1e-24)
    norms.accumulate(table.gradients())
    assert summary_of(norms).total == pytest.approx(2e-24, rel=1e-6)


def test_more_steps_than_are_kept_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_window, "_MOST_STEPS", 16)
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
    window = step_window.StepWindow(rows, torch.float64, 1.0, CPU, False)
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
    assert summary.steps == 2
    assert summary.total == pytest.approx(value / 4 * 24**0.5, rel=1e-6)


def test_groups_are_named_by_the_detail() -> None:
    name = "model.layers.3.mlp.weight"
    details = ("total", "block", "parameter")
    found = [norm_summary.NormGroups([], detail).name_of(name) for detail in details]
    assert found == ["total", "model.layers.3", name]
