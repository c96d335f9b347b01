"""A guard keeps no batch longer than its step, whether it sees the gradients or not."""

import gc
import weakref
from typing import Any

import pytest
from torch import Tensor, nn

from tbtrainer.observers.training import Training
from tests.guarded_loop import Loop


@pytest.mark.parametrize("is_described", [True, False])
def test_no_batch_is_kept_after_its_step(
    is_described: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Training:
        raise RuntimeError("no description")

    batches: list[Any] = []

    class Watching(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            return super().compute_loss(model, inputs, **kwargs)

    if not is_described:
        monkeypatch.setattr(Training, "of", fail)
    loop = Watching("stop")
    loop.step(1.0)
    gc.collect()
    assert [batch() for batch in batches] == [None]


def test_no_batch_is_kept_after_an_error_of_the_training() -> None:
    batches: list[Any] = []

    class Failing(Loop):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            raise MemoryError

    loop = Failing("stop")
    with pytest.raises(MemoryError):
        loop.begin(1.0)
    loop.steps.stop()
    gc.collect()
    assert [batch() for batch in batches] == [None]


class Unseen(Loop):
    """Takes its steps while accelerate says that gradients are still accumulated."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.accelerator.sync_gradients = False
        return super().training_step(*args, **kwargs)


def test_no_batch_of_an_unseen_step_is_kept() -> None:
    batches: list[Any] = []

    class Watching(Unseen):
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
            batches.append(weakref.ref(inputs["values"]))
            return super().compute_loss(model, inputs, **kwargs)

    loop = Watching("stop")
    loop.step(1.0)
    gc.collect()
    assert [batch() for batch in batches] == [None]


def test_an_action_without_effect_causes_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    loop = Unseen("stop")
    loop.step(1.0)
    loop.step(1.0)
    warnings = [r.getMessage() for r in caplog.records if "has no effect" in r.getMessage()]
    assert len(warnings) == 1
    assert "nonfinite_action='stop' has no effect on step 1" in warnings[0]


def test_seen_steps_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop("stop")
    loop.step(1.0)
    loop.steps.step_taken()  # As at the end of an epoch.
    assert caplog.records == []
