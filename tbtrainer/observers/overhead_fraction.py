"""Shows what all observers together cost the training."""

from tbtrainer import tags
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.observer import Observer
from tbtrainer.records import Scalar


class OverheadFraction(Observer):
    """Shows the share of the time since the last logging step that was spent in tbtrainer.

    Args:
        clock: Measures that share.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the share of the window that ends now."""
        return [Scalar(tags.OVERHEAD_FRACTION.name, self._clock.fraction())]
