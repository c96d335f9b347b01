"""One panel during one evaluation, on this rank."""

import math
from dataclasses import dataclass, replace

from tbtrainer.panels.panel import Kept, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.sample import MOST_BYTES, Examples, Sample
from tbtrainer.panels.totals import Totals


@dataclass(frozen=True)
class Place:
    """Where a rank stands among those that are given different examples.

    Ranks that share the work on one example have the same number.

    Attributes:
        number: Its number.
        places: How many there are.
        counts: Whether it is the one that counts the examples of this place.
    """

    number: int = 0
    places: int = 1
    counts: bool = True


class OpenPanel:
    """Calls a panel in one evaluation, and holds what it keeps on this rank.

    Args:
        panel: The panel.
        place: This rank.
    """

    def __init__(self, panel: Panel, place: Place) -> None:
        self.panel = panel
        self._place = place
        self._sample: Sample | None = None
        self.totals = Totals()
        # Whether the panel shows this evaluation; `None` before the first batch with examples.
        self.applies: bool | None = None
        self.has_failed = False

    @property
    def is_out(self) -> bool:
        """Whether this rank knows that the panel does not show the evaluation."""
        return self.has_failed or self.applies is False

    def add(self, batch: PanelBatch, evaluation: PanelEvaluation, first: int) -> None:
        """Tells the panel about a batch with examples, and keeps what it returns.

        Args:
            batch: The batch.
            evaluation: The evaluation, with its first batch without values.
            first: Position in the data of the batch's first example.
        """
        if self.applies is None:
            self.applies = bool(self.panel.applies(replace(evaluation, first_batch=batch)))
        if not self.is_out:
            self._keep(self.panel.batch(batch, evaluation), evaluation, first)

    def finish(self, evaluation: PanelEvaluation, first: int) -> None:
        """Calls the panel after the last batch, and keeps what it returns where it counts.

        Args:
            evaluation: The evaluation.
            first: A position in the data after those of all batches.
        """
        kept = self.panel.finish(evaluation)
        if self._place.counts:
            self._keep(kept, evaluation, first)

    def examples(self) -> Examples | None:
        """Returns the examples that are kept; `None` if none are. Waits for the device."""
        return None if self._sample is None else self._sample.kept()

    def _keep(self, kept: Kept | None, evaluation: PanelEvaluation, first: int) -> None:
        if kept is None:
            return
        self.totals.add(kept.totals)
        if kept.examples:
            if self._sample is None:
                # What world rank zero receives does not grow with the number of ranks. It is more
                # than one rank's share, because the ranks' examples differ.
                share = math.ceil(2 * MOST_BYTES / self._place.places)
                self._sample = Sample(self.most(evaluation), min(MOST_BYTES, share))
            self._sample.add(kept.examples, kept.priority, first)

    def most(self, evaluation: PanelEvaluation) -> int:
        """Returns the most examples that the panel keeps, of all ranks."""
        most = self.panel.most_examples
        return evaluation.examples if most is None else min(most, evaluation.examples)
