"""Counts the steps whose numbers are not finite, and shows how far the losses of ranks differ."""

from collections.abc import Sequence

from tbtrainer import tags
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.step_facts import StepFacts
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.records import Scalar
from tbtrainer.sharding.world import world_size


class HealthCounts(Observer):
    """Shows how many steps of the window were bad, also if `Trainer` leaves them out of its loss.

    Args:
        measurements: Measures the steps.
    """

    def __init__(self, measurements: StepMeasurements) -> None:
        self._measurements = measurements

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the counts of the window that ends with `step`."""
        window = self._measurements.window
        return [] if window is None else count_scalars(window.steps)

    def run_ends(self, step: int) -> list[Scalar]:
        """Returns the counts of the steps after the last logging step; none if there are none.

        A training that `nonfinite_action` ends would show none of them otherwise.
        """
        return self.logging_step(step)


def count_scalars(steps: Sequence[StepFacts]) -> list[Scalar]:
    """Returns the counts of some steps, and the largest spread of their losses.

    Args:
        steps: The steps of a logging window.
    """
    numbers: dict[tags.Tag, float] = {}
    if any(facts.loss is not None for facts in steps):
        numbers[tags.NONFINITE_LOSSES] = sum(facts.has_bad_loss for facts in steps)
    if any(facts.grad_norm is not None for facts in steps):
        bad = (facts.has_bad_gradient and not facts.is_overflow for facts in steps)
        numbers[tags.NONFINITE_GRADIENTS] = sum(bad)
    if any(facts.loss_scale is not None for facts in steps):
        numbers[tags.SKIPPED_STEPS] = sum(facts.was_skipped for facts in steps)
    spreads = [facts.loss_spread for facts in steps if facts.loss_spread is not None]
    if spreads and world_size() > 1:
        numbers[tags.LOSS_SPREAD] = max(spreads)
    return [Scalar(tag.name, float(number)) for tag, number in numbers.items()]
