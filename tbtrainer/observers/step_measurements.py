"""Measures every step, for the observers that show something of it."""

from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import Gradients, Refusal
from tbtrainer.observers.gradient_norms import GradientNorms
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.step_facts import StepsReading
from tbtrainer.observers.training import Training


class StepMeasurements(Observer):
    """Keeps loss and gradient norms of every step on the device, and reads them now and then.

    It shows nothing itself, and is called before the observers that show what it read. It reads at
    logging steps, before a checkpoint, when a step is refused, and when the run ends. With several
    ranks each reading is a collective, and in a long window other steps can be one too.

    Args:
        isolation: What happens to an error in a measurement.

    Attributes:
        latest: The steps since the last reading; `None` if there were none, or after an error.
        window: At a logging step and when the run ends, the steps since the last logging step;
            `None` as for `latest`.
        norms: The norms of a training; `None` outside of one.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.latest: StepsReading | None = None
        self.window: StepsReading | None = None
        self.norms: GradientNorms | None = None
        self._isolation = isolation
        self._training: Training | None = None
        self._unshown: StepsReading | None = None
        self._loss: Tensor | None = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Allocates the memory for the norms of a window."""
        self._training = training
        self.latest = self.window = self._unshown = self._loss = None
        self.norms = GradientNorms(training.parameters, training.device, self._isolation)
        return ()

    def micro_batch_taken(self, step: int, loss: Tensor) -> tuple[()]:
        """Adds the losses of the step up, without waiting for the device."""
        # A copy, because a model compiled with CUDA graphs writes over its earlier outputs.
        self._loss = loss.clone() if self._loss is None else self._loss + loss
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Keeps the norms on the device, without waiting for it."""
        if self.norms is not None:
            # Also without gradients, because all ranks must reduce the same number of steps.
            parts = None if gradients is None else gradients.parts
            loss_scale = None if gradients is None else gradients.loss_scale
            self.norms.accumulate(step, parts, loss_scale)
        return ()

    def step_taken(self, step: int) -> tuple[()]:
        """Keeps the loss of the step, and whether it was skipped."""
        loss, self._loss = self._loss, None
        if self.norms is not None and self._training is not None:
            self.norms.complete(step, loss, self._training.was_step_skipped)
        return ()

    def step_refused(self, step: int, refusal: Refusal) -> tuple[()]:
        """Reads the steps up to the one that is refused."""
        self._loss = None
        if self.norms is not None:
            self.norms.complete(step, refusal.loss, was_skipped=False)
        self._read()
        return ()

    def checkpoint_begins(self, step: int) -> tuple[()]:
        """Reads the steps so far, so that the checkpoint has a state of all of them."""
        self._read()
        return ()

    def logging_step(self, step: int) -> tuple[()]:
        """Reads the steps, and ends the window."""
        self.window = None
        self._read()
        self.window, self._unshown = self._unshown, None
        return ()

    def run_ends(self, step: int) -> tuple[()]:
        """Reads the steps after the last logging step, and ends their window."""
        return self.logging_step(step)

    def close(self) -> None:
        """Frees the memory for the norms."""
        self.norms = self._training = self._loss = None
        self.latest = self.window = self._unshown = None

    def _read(self) -> None:
        self.latest = None
        if self.norms is None:
            return
        self.latest = self.norms.read()
        if self.latest is not None:
            before = self._unshown
            self._unshown = self.latest if before is None else before.then(self.latest)
