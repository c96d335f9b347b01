"""The panels of one evaluation that has begun and not ended, on this rank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import EvaluationBatch
from tbtrainer.panels.all_ranks import kept_of_all_ranks
from tbtrainer.panels.nested import first_examples
from tbtrainer.panels.open_panel import OpenPanel, Place
from tbtrainer.panels.panel import KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.random_states import RandomStates
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import own_rank, true_on_any_rank, world_size


@dataclass(frozen=True)
class PanelSetting:
    """What the arguments and the trainer say about the panels of an evaluation.

    Attributes:
        panels: Those that are chosen; the same ones on every rank.
        named: Names of those that were asked for by name.
        evaluation: The evaluation, before its first batch.
        sizes: How many ranks share the work on one example.
    """

    panels: Sequence[Panel]
    named: frozenset[str]
    evaluation: PanelEvaluation
    sizes: ModelParallelSizes

    @property
    def has_whole_sequences(self) -> bool:
        """Whether this rank's model returns something of each token of its examples."""
        return self.sizes.context * self.sizes.sequence == 1


class OpenEvaluation:
    """Tells the panels of one evaluation about its batches, and brings together what they keep.

    Args:
        setting: What is chosen.
        left_out: Names of panels that this rank leaves out.
        isolation: What happens to an error of a panel.
    """

    def __init__(
        self, setting: PanelSetting, left_out: frozenset[str], isolation: Isolation
    ) -> None:
        self.setting = setting
        self.evaluation = setting.evaluation
        self._isolation = isolation
        sharing = setting.sizes.ranks_per_sample
        self._place = Place(
            own_rank() // sharing, max(world_size() // sharing, 1), own_rank() % sharing == 0
        )
        self.panels = [OpenPanel(panel, self._place) for panel in setting.panels]
        for panel in self.panels:
            panel.has_failed = panel.panel.name in left_out
        # Examples that this rank has counted, and those of its batches so far.
        self._seen = self._given = 0

    def add(self, batch: EvaluationBatch) -> None:
        """Tells the panels about a batch of this rank."""
        # As in accelerate's samplers: the places take turns, with batches of one size.
        first = self._given * self._place.places + self._place.number * batch.examples
        self._given += batch.examples
        self._seen += batch.own_examples
        called = [panel for panel in self.panels if not panel.is_out]
        if not called or batch.own_examples == 0:
            return
        try:
            shown = panel_batch(batch)
            if self.evaluation.first_batch is None:
                # Not the batch itself: its logits may be large.
                self.evaluation = replace(self.evaluation, first_batch=shown.without_values())
        except Exception as error:
            for panel in called:
                self._report(panel, error)
            return
        for panel in called:
            self._guarded(panel, panel.add, shown, self.evaluation, first)

    def shown(self) -> list[OpenPanel]:
        """Returns the panels that apply, and calls them after the last batch.

        A panel that is left out on one rank is left out on all of them. One without any examples is
        left out, too. With several ranks it is up to two collectives.
        """
        panels = self._agreed(self.panels)
        finishing = [p for p in panels if type(p.panel).finish is not Panel.finish]
        if not finishing:
            return panels
        for panel in finishing:
            self._guarded(panel, self._finish, panel)
        return self._agreed(panels)

    def kept(self, panels: Sequence[OpenPanel]) -> list[tuple[Panel, KeptOfAllRanks]]:
        """Returns what panels have kept, on world rank zero. With several ranks it is a collective.

        Args:
            panels: What `shown` returned.
        """
        kept = kept_of_all_ranks(panels, self.evaluation, self._seen, self._report)
        return [(panel.panel, found) for panel, found in kept]

    def _finish(self, panel: OpenPanel) -> None:
        states = RandomStates.now()
        try:
            panel.finish(self.evaluation, self._given * self._place.places)
        finally:
            states.restore()

    def _agreed(self, panels: Sequence[OpenPanel]) -> list[OpenPanel]:
        if not panels:
            return []
        flags = true_on_any_rank([*(p.is_out for p in panels), *(bool(p.applies) for p in panels)])
        out, applies = flags[: len(panels)], flags[len(panels) :]
        return [p for p, o, a in zip(panels, out, applies, strict=True) if a and not o]

    def _guarded(self, panel: OpenPanel, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self._report(panel, error)

    def _report(self, panel: OpenPanel, error: Exception) -> None:
        panel.has_failed = True
        self._isolation.report(f"show the evaluation panel {panel.panel.name}", error)


def panel_batch(batch: EvaluationBatch) -> PanelBatch:
    """Returns a batch as panels see it: only with the examples that this rank counts."""
    own = batch.own_examples

    def counted(value: Any) -> Any:
        return first_examples(value, own, batch.examples)

    return PanelBatch(
        size=own,
        inputs=counted(batch.inputs) if isinstance(batch.inputs, Mapping) else {},
        outputs=counted(batch.outputs),
        predictions=counted(batch.logits),
        labels=counted(batch.labels),
        loss=batch.loss,
    )
