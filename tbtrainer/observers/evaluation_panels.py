"""Shows what an evaluation gets right and wrong: tells the panels about each batch."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.observer import Evaluation, EvaluationBatch, Observer
from tbtrainer.panels.all_ranks import kept_of_all_ranks
from tbtrainer.panels.built_in import chosen_panels
from tbtrainer.panels.nested import mapped
from tbtrainer.panels.open_panel import OpenPanel, Place
from tbtrainer.panels.panel import KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.random_states import RandomStates
from tbtrainer.records import Deferred, Record, Records
from tbtrainer.run.time_limit import within
from tbtrainer.sharding.agreement import failed_on_any_rank
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import own_rank, world_size

logger = logging.getLogger(__name__)

# The longest that one panel may draw.
DRAW_SECONDS = 60.0


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


def panel_setting(
    trainer: Any, arguments: TensorBoardArguments, step: int, dataset: str | None
) -> PanelSetting:
    """Returns what is chosen for an evaluation, and what panels know of it.

    Args:
        trainer: A `Trainer`.
        arguments: What is shown.
        step: Optimizer steps taken so far.
        dataset: The key of the evaluation's dataset in a dictionary of datasets, or `None`.
    """
    model = trainer.model
    evaluation = PanelEvaluation(
        step=step,
        dataset=dataset,
        model=model,
        config=getattr(model, "config", None),
        processing_class=trainer.processing_class,
        training_arguments=trainer.args,
        examples=arguments.evaluation_examples,
    )
    chosen = arguments.evaluation_panels
    return PanelSetting(
        panels=chosen_panels(chosen),
        named=frozenset(name for name in chosen if isinstance(name, str)),
        evaluation=evaluation,
        sizes=ModelParallelSizes.of(trainer.accelerator, model),
    )


class EvaluationPanels(Observer):
    """Calls the panels in every evaluation. With several ranks its end has up to five collectives.

    Args:
        setting: Returns what is chosen, at a step and for the dataset of an evaluation.
        isolation: What happens to an error of a panel.
    """

    def __init__(
        self, setting: Callable[[int, str | None], PanelSetting], isolation: Isolation
    ) -> None:
        self._setting = setting
        self._isolation = isolation
        self._open: _OpenEvaluation | None = None
        # Panels whose drawing did not end, and those that were said not to apply.
        self._hung: set[str] = set()
        self._explained: set[str] = set()

    def evaluation_begins(self, step: int, dataset: str | None) -> tuple[()]:
        """Opens the panels."""
        self._open = None
        setting = self._setting(step, dataset)
        if setting.panels:
            self._open = _OpenEvaluation(setting, self._isolation)
        return ()

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> tuple[()]:
        """Tells the panels about a batch. A prediction outside of an evaluation has none."""
        if self._open is not None:
            self._open.add(batch)
        return ()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Brings what was kept to world rank zero, and returns what draws it."""
        opened, self._open = self._open, None
        if opened is None:
            return ()  # Switched off, or the end of an evaluation of several datasets.
        self._explain(opened)
        panels, kept = opened.ended()
        if kept is None:
            return ()
        shown = opened.evaluation.with_metrics(evaluation.metrics)
        return [Deferred(lambda: list(self._drawn(panels, kept, shown)))]

    def _explain(self, opened: "_OpenEvaluation") -> None:
        """Logs once for each panel that was asked for by name and does not apply."""
        for panel in opened.panels:
            name = panel.panel.name
            asked_for = name in opened.setting.named and name not in self._explained
            if asked_for and panel.applies is False and own_rank() == 0:
                self._explained.add(name)
                logger.warning(
                    "evaluation_panels has %r, which does not apply to this evaluation: its model "
                    "or its data is of another kind. The other panels are shown.",
                    name,
                )

    def _drawn(
        self, panels: Sequence[Panel], kept: Sequence[KeptOfAllRanks], shown: PanelEvaluation
    ) -> Iterator[Record]:
        for panel, found in zip(panels, kept, strict=True):
            if panel.name in self._hung:
                continue
            with self._isolation.guard(f"draw the evaluation panel {panel.name}"):
                try:
                    yield from within(DRAW_SECONDS, _records_of, panel, found, shown)
                except TimeoutError:
                    self._hung.add(panel.name)
                    raise


def _records_of(panel: Panel, kept: KeptOfAllRanks, shown: PanelEvaluation) -> list[Record]:
    return list(panel.draw(kept, shown))


class _OpenEvaluation:
    """The panels of one evaluation that has begun and not ended, on this rank."""

    def __init__(self, setting: PanelSetting, isolation: Isolation) -> None:
        self.setting = setting
        self.evaluation = setting.evaluation
        self._isolation = isolation
        place = Place(own_rank(), world_size())
        self.panels = [OpenPanel(panel, place) for panel in setting.panels]
        # Ranks that divide a layer are given the same examples. The first of them counts them.
        self._counts = place.rank % setting.sizes.tensor == 0
        self._batches = self._seen = 0

    def add(self, batch: EvaluationBatch) -> None:
        shown = _panel_batch(batch, self._counts)
        if self.evaluation.first_batch is None:
            self.evaluation = replace(self.evaluation, first_batch=shown)
        self._seen += shown.size
        for panel in self.panels:
            if not panel.is_out:
                self._guarded(panel, panel.add, shown, self.evaluation, self._batches)
        self._batches += 1

    def ended(self) -> tuple[list[Panel], list[KeptOfAllRanks] | None]:
        """Returns the panels that apply on all ranks, and what they kept, on world rank zero."""
        panels = self._agreed(self.panels)
        finishing = [p for p in panels if type(p.panel).finish is not Panel.finish]
        if finishing:
            for panel in finishing:
                # Not where this rank has not seen a batch: then it does not apply.
                self._guarded(panel, self._finish, panel)
            panels = self._agreed(panels)
        if not panels:
            return [], None
        kept = kept_of_all_ranks(panels, self.evaluation, self._seen)
        return [panel.panel for panel in panels], kept

    def _finish(self, panel: OpenPanel) -> None:
        states = RandomStates.now()
        try:
            panel.finish(self.evaluation, self._batches)
        finally:
            states.restore()

    def _agreed(self, panels: Sequence[OpenPanel]) -> list[OpenPanel]:
        """Returns the panels that no rank has left out. With several ranks it is a collective."""
        out = failed_on_any_rank(
            [p.panel.name for p in panels], [p.is_out for p in panels], len(panels)
        )
        return [panel for panel, is_out in zip(panels, out, strict=True) if not is_out]

    def _guarded(self, panel: OpenPanel, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            panel.has_failed = True
            self._isolation.report(f"show the evaluation panel {panel.panel.name}", error)


def _panel_batch(batch: EvaluationBatch, counts: bool) -> PanelBatch:
    """Returns a batch as panels see it: only with the examples that this rank counts."""
    own = batch.own_examples if counts else 0

    def cut(value: Tensor) -> Tensor:
        return value.detach()[:own] if value.shape[0] == batch.examples else value.detach()

    return PanelBatch(
        size=own,
        inputs=mapped(batch.inputs, cut),
        outputs=mapped(batch.outputs, cut),
        predictions=mapped(batch.logits, cut),
        labels=mapped(batch.labels, cut),
        loss=batch.loss,
    )
