"""Evaluations with panels on one rank, without a trainer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.evaluation_panels import EvaluationPanels
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.open_evaluation import PanelSetting
from tbtrainer.panels import Panel
from tbtrainer.records import Deferred, Record
from tbtrainer.sharding.ranks import ModelParallelSizes
from tests.panel_evaluations import evaluation
from tests.panels import batch_of


class Evaluations:
    """Evaluations on one rank, without a trainer.

    Args:
        panels: Those that are chosen.
        sizes: How many ranks share the work on one example.
        named: Names of those that were asked for by name.
        action: What an error does.
    """

    def __init__(
        self,
        *panels: Panel,
        sizes: ModelParallelSizes | None = None,
        named: tuple[str, ...] = (),
        action: str = "warn",
    ) -> None:
        self.chosen = list(panels)
        self.sizes = sizes or ModelParallelSizes()
        self.named = named
        self.running: list[int] = []
        self._number = 0
        self.panels = EvaluationPanels(self._setting, lambda: self.running, Isolation(action))

    def _setting(self, step: int, dataset: str | None) -> PanelSetting:
        shown = evaluation(step=step, dataset=dataset)
        return PanelSetting(self.chosen, frozenset(self.named), shown, self.sizes)

    def enter(self) -> None:
        """An evaluation or a prediction begins to run."""
        self._number += 1
        self.running = [*self.running, self._number]

    def leave(self) -> None:
        """It does not run any more."""
        self.running = self.running[:-1]

    def begin(self, dataset: str | None = None) -> None:
        self.enter()
        self.panels.evaluation_begins(3, dataset)

    def predict(self, labels: list[int] | Tensor, own: int | None = None) -> None:
        labels = labels if isinstance(labels, Tensor) else torch.tensor(labels)
        self.panels.evaluation_batch(3, batch_of(labels, own=own))

    def end(self, metrics: Mapping[str, float] | None = None) -> list[Record]:
        """The records of the evaluation, drawn."""
        try:
            ended = Evaluation(dict(metrics or {}), None, 1.0, False)
            records = list(self.panels.evaluation_ended(3, ended))
        finally:
            self.leave()
        drawn: list[Record] = []
        for record in records:
            assert isinstance(record, Deferred)
            drawn += record.make()
        return drawn

    def of(self, *batches: list[int]) -> list[Record]:
        """The records of one evaluation."""
        self.begin()
        for labels in batches:
            self.predict(labels)
        return self.end()
