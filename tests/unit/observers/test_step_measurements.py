"""When steps are measured, read and forgotten, and that nothing waits for the device in between."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import Gradients, Refusal
from tbtrainer.observers.step_facts import StepsReading
from tbtrainer.observers.step_measurements import StepMeasurements
from tests.accelerator import Accelerator
from tests.gradients import CPU
from tests.measured_steps import MeasuredSteps, training_of

NAN = float("nan")


def steps_of(reading: StepsReading | None) -> list[int]:
    return [] if reading is None else [facts.step for facts in reading.steps]


def test_norms_are_those_of_torch() -> None:
    steps = MeasuredSteps()
    expected = []
    for gradient in (0.5, 1.0, 3.0):
        steps.take(gradient=gradient, bad={"layers.1.bias": 7.0})
        grads = [p.grad for p in steps.model.parameters() if p.grad is not None]
        expected.append(float(torch.nn.utils.get_total_norm(grads)))
    assert [facts.grad_norm for facts in steps.reading().steps] == pytest.approx(expected)


def test_losses_of_micro_batches_are_added_up() -> None:
    steps = MeasuredSteps()
    steps.measurements.micro_batch_taken(1, torch.tensor(0.25))
    steps.measurements.micro_batch_taken(1, torch.tensor(0.5))
    steps.take(loss=1.0)
    steps.take(loss=1.0)
    assert [facts.loss for facts in steps.reading().steps] == [1.75, 1.0]


def test_a_bad_micro_batch_makes_the_loss_bad() -> None:
    steps = MeasuredSteps()
    steps.measurements.micro_batch_taken(1, torch.tensor(NAN))
    steps.take(loss=1.0)
    assert steps.reading().steps[0].has_bad_loss


def test_a_loss_whose_memory_is_used_again_is_kept() -> None:
    steps = MeasuredSteps()
    loss = torch.tensor(0.25)
    steps.measurements.micro_batch_taken(1, loss)
    loss.fill_(0.5)  # As the next forward pass does under CUDA graphs.
    steps.measurements.micro_batch_taken(1, loss)
    steps.take(loss=None)
    assert steps.reading().steps[0].loss == 0.75


def test_steps_without_a_loss_have_none() -> None:
    steps = MeasuredSteps()
    steps.take(loss=None)
    steps.take(loss=2.0)
    facts = steps.reading().steps
    assert [f.loss for f in facts] == [None, 2.0]
    assert [f.grad_norm for f in facts] == pytest.approx([24**0.5] * 2)


@pytest.mark.parametrize(
    ("gradient", "loss", "scale", "is_bad"),
    [
        (float("inf"), 1.0, 1.0, False),
        (float("inf"), 1.0, 65_536.0, False),
        (float("inf"), 1.0, 0.5, True),
        (float("inf"), NAN, 65_536.0, True),
        (NAN, 1.0, 65_536.0, True),
    ],
)
def test_an_overflow_of_the_loss_scale_is_not_bad(
    gradient: float, loss: float, scale: float, is_bad: bool
) -> None:
    steps = MeasuredSteps()
    bad = {"embed.weight": gradient}
    steps.take(loss=loss, bad=bad, loss_scale=torch.tensor(scale), was_skipped=True)
    (facts,) = steps.reading().steps
    assert facts.was_skipped
    assert facts.is_bad == is_bad


def test_the_loss_scale_is_that_before_the_scaler_changed_it() -> None:
    steps = MeasuredSteps()
    scale = torch.tensor(1.0)
    steps.begin(bad={"embed.weight": float("inf")}, loss_scale=scale)
    scale.mul_(0.5)  # As `GradScaler.update` does.
    steps.training.was_step_skipped = True
    steps.measurements.step_taken(1)
    (facts,) = steps.reading().steps
    assert facts.loss_scale == 1.0
    assert facts.is_overflow


@pytest.mark.parametrize(("factor", "was_skipped"), [(0.5, True), (1.0, False), (2.0, False)])
def test_a_step_whose_scale_was_reduced_was_skipped(factor: float, was_skipped: bool) -> None:
    steps = MeasuredSteps()
    scale = torch.tensor(64.0)
    steps.begin(loss_scale=scale)
    scale.mul_(factor)  # As `GradScaler.update` does.
    steps.measurements.step_taken(1)
    (facts,) = steps.reading().steps
    assert (facts.was_skipped, facts.loss_scale) == (was_skipped, 64.0)


def test_a_window_holds_what_a_checkpoint_has_read() -> None:
    steps = MeasuredSteps()
    steps.take()
    steps.take()
    steps.measurements.checkpoint_begins(2)
    assert steps_of(steps.measurements.latest) == [1, 2]
    assert steps.measurements.window is None
    steps.take()
    steps.log()
    assert steps_of(steps.measurements.latest) == [3]
    assert steps_of(steps.measurements.window) == [1, 2, 3]


def test_a_window_without_a_step_is_none() -> None:
    steps = MeasuredSteps()
    steps.take()
    steps.log()
    assert steps.log() is None
    assert steps.measurements.latest is None


def test_the_end_of_the_run_reads_the_last_steps() -> None:
    steps = MeasuredSteps()
    steps.take()
    steps.log()
    steps.take()
    steps.measurements.run_ends(2)
    assert steps_of(steps.measurements.latest) == [2]


def test_a_refused_step_is_read_at_once() -> None:
    steps = MeasuredSteps()
    steps.take()
    steps.begin(loss=NAN)
    steps.measurements.step_refused(2, Refusal("stop", torch.tensor(NAN), None, False))
    latest = steps.measurements.latest
    assert latest is not None
    assert latest.first_bad is not None
    assert (latest.first_bad.step, latest.first_bad.loss_rank) == (2, 0)


def test_a_failed_reading_leaves_no_old_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    steps = MeasuredSteps()
    steps.take()
    steps.log()
    steps.take()
    assert steps.measurements.norms is not None
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no memory"):
        patch.setattr(steps.measurements.norms, "read", fail)
        steps.log()
    assert steps.measurements.latest is None
    assert steps.measurements.window is None


def test_another_training_begins_with_nothing() -> None:
    steps = MeasuredSteps()
    steps.measurements.micro_batch_taken(1, torch.tensor(5.0))
    steps.measurements.run_begins(0, steps.training)
    steps.take(loss=1.0)
    assert [facts.loss for facts in steps.reading().steps] == [1.0]


def test_outside_of_a_training_nothing_is_read() -> None:
    steps = MeasuredSteps()
    steps.measurements.close()
    steps.measurements.checkpoint_begins(0)
    assert steps.measurements.latest is None


# ---- Waiting for the device ----

READING = ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the methods that read a tensor on the host, each time one is called."""
    calls: list[str] = []

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return method(tensor, *args, **kwargs)

        return call

    for name in READING:
        monkeypatch.setattr(Tensor, name, watched(name, getattr(Tensor, name)))
    return calls


class Watched(Accelerator):
    """An accelerator that keeps what reads its tensors on the host."""

    def __init__(self) -> None:
        super().__init__("lazy")
        self.read: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Notes a read, and computes."""
        target = (kwargs or {}).get("device")
        if "_local_scalar_dense" in str(func) or str(target) == "cpu":
            self.read.append(str(func))
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_steps_on_an_accelerator_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    training = training_of(model)
    with Watched() as accelerator:
        training.device = accelerator.device
        measurements = StepMeasurements(Isolation("raise"))
        measurements.run_begins(0, training)
        gradients = [accelerator.put(torch.ones_like(p)) for p in model.parameters()]
        loss, scale = accelerator.put(torch.tensor(2.0)), accelerator.put(torch.tensor(4.0))
        calls = counted(monkeypatch)
        for step in range(1, 21):
            measurements.micro_batch_taken(step, loss)
            measurements.micro_batch_taken(step, loss)
            measurements.gradients_ready(step, Gradients(gradients, scale))
            measurements.step_taken(step)
        assert accelerator.read == []
        assert calls == []
        measurements.logging_step(20)
    window = measurements.window
    assert window is not None
    assert [facts.loss for facts in window.steps] == [4.0] * 20
    assert [facts.grad_norm for facts in window.steps] == pytest.approx([25**0.5 / 4] * 20)
    # One copy reads them all.
    assert [call for call in calls if call in ("item", "cpu", "__bool__")] == ["cpu"]


def test_a_full_ring_is_folded_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbtrainer.observers.step_window._MOST_STEPS", 16)
    model = nn.Linear(4, 1)
    training = training_of(model)
    with Watched() as accelerator:
        training.device = accelerator.device
        measurements = StepMeasurements(Isolation("raise"))
        measurements.run_begins(0, training)
        gradients = [accelerator.put(torch.ones_like(p)) for p in model.parameters()]
        calls = counted(monkeypatch)
        for step in range(1, 40):
            measurements.gradients_ready(step, Gradients(gradients, None))
        assert (accelerator.read, calls) == ([], [])


def test_steps_on_the_cpu_read_no_number_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = MeasuredSteps()
    steps.take()
    steps.log()
    calls = counted(monkeypatch)
    for _ in range(5):
        steps.take(loss_scale=torch.tensor(2.0))
    # `numpy` is a view of the buffer that the norms are put into; it copies and waits for nothing.
    assert [call for call in calls if call != "numpy"] == []
    assert steps.training.device == CPU
