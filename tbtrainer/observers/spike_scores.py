"""Spike scores of the loss and of the gradient norm."""

from collections.abc import Mapping
from typing import Any

from tbtrainer import tags
from tbtrainer.observers.facts import Refusal
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.spike_score import SpikeScore
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.training import Training
from tbtrainer.records import Scalar


class SpikeScores(Observer):
    """Shows the share of steps at which loss or gradient norm jumped, since training began.

    The counts continue when the training is resumed from a checkpoint. `SpikeScore` says what a
    spike is.

    Args:
        measurements: Measures the steps.
    """

    def __init__(self, measurements: StepMeasurements) -> None:
        self._measurements = measurements
        self._loss = SpikeScore()
        self._grad_norm = SpikeScore()

    @property
    def is_known(self) -> bool:
        """Whether a step was judged so far, of the loss or of the gradient norm."""
        return self._loss.score is not None or self._grad_norm.score is not None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Forgets an earlier training."""
        self._loss, self._grad_norm = SpikeScore(), SpikeScore()
        return ()

    def checkpoint_begins(self, step: int) -> tuple[()]:
        """Judges the steps so far, so that the checkpoint knows them."""
        self._judge()
        return ()

    def step_refused(self, step: int, refusal: Refusal) -> tuple[()]:
        """Judges the steps before the one that is refused."""
        self._judge()
        return ()

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the scores of all steps so far."""
        self._judge()
        scores = {
            tags.LOSS_SPIKE_SCORE: self._loss.score,
            tags.GRAD_NORM_SPIKE_SCORE: self._grad_norm.score,
        }
        return [Scalar(tag.name, score) for tag, score in scores.items() if score is not None]

    def state(self) -> dict[str, Any]:
        """Returns the counts and the steps that later ones are compared with."""
        return {"loss": self._loss.state(), "grad_norm": self._grad_norm.state()}

    def load_state(self, state: Any) -> None:
        """Continues the counts of the training that is resumed."""
        if not isinstance(state, Mapping):
            raise ValueError("the state of the spike scores is not an object")
        loss, grad_norm = SpikeScore(), SpikeScore()
        loss.load(state.get("loss"))
        grad_norm.load(state.get("grad_norm"))
        self._loss, self._grad_norm = loss, grad_norm

    def _judge(self) -> None:
        latest, norms = self._measurements.latest, self._measurements.norms
        if latest is None or norms is None:
            return
        self._loss.extend(facts.loss for facts in latest.steps if facts.loss is not None)
        # The norm of some of the gradients is no measure of all of them.
        if not norms.missing:
            known = (facts.grad_norm for facts in latest.steps)
            self._grad_norm.extend(norm for norm in known if norm is not None)
