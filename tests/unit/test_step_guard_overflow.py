"""A guard tells an overflow of the loss scale from a bad step, on all ranks alike."""

from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer import step_guard
from tbtrainer.step_findings import Findings
from tests.guarded_loop import INF, NAN, Loop, plant, same, scaler_of


def test_an_overflow_is_let_through() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    before = loop.weights()
    plant(loop, "first.weight", INF)
    loop.step(1.0)
    assert not loop.control.should_training_stop
    assert same(before, loop.weights())
    assert loop.accelerator.scaler.get_scale() == 512.0


@pytest.mark.parametrize(("value", "scale"), [(NAN, 1024.0), (INF, 0.5)])
def test_bad_gradients_that_are_no_overflow_are_refused(value: float, scale: float) -> None:
    loop = Loop("stop", scaler=scaler_of(scale))
    plant(loop, "first.weight", value)
    loop.step(1.0)
    assert loop.control.should_training_stop


def test_gradients_of_nan_alone_can_be_an_overflow() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    for name, _ in loop.model.named_parameters():
        plant(loop, name, NAN)
    loop.step(1.0)
    assert not loop.control.should_training_stop


def test_an_overflow_on_another_rank_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    # This rank holds the parameters further down, whose gradients are NaN.
    def with_other_rank(found: Any) -> list[float]:
        other = Findings(last_row=99.0, last_bad_row=99.0, loss_scale=1024.0)
        return [max(pair) for pair in zip(found, astuple(other), strict=True)]

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    loop = Loop("stop", scaler=scaler_of(1024.0))
    plant(loop, "first.weight", NAN)
    loop.step(1.0)
    assert not loop.control.should_training_stop


@pytest.mark.parametrize("name", ["bad_loss", "bad_gradient"])
def test_what_another_rank_found_ends_the_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_other_rank(found: Any) -> list[float]:
        if len(found) == 2:  # The number of forward passes, which is equal.
            return list(found)
        other = Findings(**{name: 1.0})
        return [max(pair) for pair in zip(found, astuple(other), strict=True)]

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    loop = Loop("stop")
    loop.step(1.0)
    assert loop.control.should_training_stop


def test_ranks_with_different_forward_passes_repeat_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_other_rank(found: Any) -> list[float]:
        return [2.0, 0.0] if len(found) == 2 else list(found)

    monkeypatch.setattr(step_guard, "largest_on_any_rank", with_other_rank)
    repeated: list[Any] = []
    monkeypatch.setattr(step_guard, "first_bad_module", lambda *args: repeated.append(args))
    loop = Loop("stop")
    plant(loop, "first.weight", NAN)
    loop.step(1.0)
    assert loop.control.should_training_stop
    assert repeated == []


def test_the_host_waits_once_per_good_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop("stop")
    loop.step(1.0)
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__"):
        method = getattr(Tensor, name)

        def call(tensor: Tensor, name: str = name, method: Any = method) -> Any:
            reads.append(name)
            return method(tensor)

        monkeypatch.setattr(Tensor, name, call)
    loop.begin(1.0)
    assert reads == ["tolist"]


def test_a_scaler_skips_a_refused_step() -> None:
    loop = Loop("stop", scaler=scaler_of(1024.0))
    loop.step(1.0)
    before = loop.weights()
    loop.begin(NAN)
    gradients = loop.gradients()
    assert all(grad is not None and bool(grad.isnan().all()) for grad in gradients)
    loop.accelerator.scaler.step(loop.optimizer)
    assert same(before, loop.weights())


def test_sparse_gradients_under_a_scaler_are_discarded() -> None:
    model = nn.Embedding(4, 2, sparse=True)

    class Words(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **_: Any) -> Tensor:
            loss: Tensor = model(torch.tensor([1, 2])).sum() * NAN
            return loss

    loop = Words("stop", model=model, scaler=scaler_of(4.0))
    loop.begin(1.0)
    assert model.weight.grad is not None
    assert bool(model.weight.grad._values().isnan().all())
