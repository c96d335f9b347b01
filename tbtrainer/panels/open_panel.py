"""One panel during one evaluation, on this rank."""

import math
from dataclasses import dataclass
from typing import Any

from tbtrainer.panels.panel import Kept, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.sample import Sample
from tbtrainer.panels.totals import Totals


@dataclass(frozen=True)
class Place:
    """Where a rank stands.

    Attributes:
        rank: Its number.
        ranks: How many there are.
    """

    rank: int
    ranks: int


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
        # Whether the panel shows this evaluation; `None` before the first batch.
        self.applies: bool | None = None
        self.has_failed = False

    @property
    def is_out(self) -> bool:
        """Whether this rank knows that the panel does not show the evaluation."""
        return self.has_failed or self.applies is False

    def add(self, batch: PanelBatch, evaluation: PanelEvaluation, number: int) -> None:
        """Tells the panel about a batch, and keeps what it returns.

        Args:
            batch: The batch.
            evaluation: The evaluation, with its first batch.
            number: Number of the batch on this rank.
        """
        if self.applies is None:
            self.applies = bool(self.panel.applies(evaluation))
        if not self.is_out and batch.size > 0:
            self._keep(self.panel.batch(batch, evaluation), evaluation, number)

    def finish(self, evaluation: PanelEvaluation, number: int) -> None:
        """Calls the panel after the last batch, and keeps what it returns."""
        if self.applies:
            self._keep(self.panel.finish(evaluation), evaluation, number)

    def examples(self) -> dict[str, Any]:
        """Returns the examples that are kept, as arrays. Waits for the device."""
        return {} if self._sample is None else self._sample.arrays()

    def _keep(self, kept: Kept | None, evaluation: PanelEvaluation, number: int) -> None:
        if kept is None:
            return
        self.totals.add(kept.totals)
        if kept.examples:
            if self._sample is None:
                self._sample = Sample(self.most_on_rank(evaluation))
            self._sample.add(kept.examples, kept.priority, number, self._place.rank)

    def most(self, evaluation: PanelEvaluation) -> int:
        """Returns the most examples that the panel keeps, of all ranks."""
        most = self.panel.most_examples
        return evaluation.examples if most is None else min(most, evaluation.examples)

    def most_on_rank(self, evaluation: PanelEvaluation) -> int:
        """Returns the most examples that this rank keeps.

        They are more than its share, because the ranks' examples differ, but what world rank zero
        receives does not grow with the number of ranks.
        """
        most = self.most(evaluation)
        return min(most, 2 * math.ceil(most / self._place.ranks) + 2)
