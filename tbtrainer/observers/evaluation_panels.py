"""Shows what an evaluation gets right and wrong: tells the panels about each batch."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.observers.open_evaluation import OpenEvaluation, PanelSetting
from tbtrainer.panels.built_in import chosen_panels
from tbtrainer.panels.panel import KeptOfAllRanks, Panel, PanelEvaluation
from tbtrainer.panels.pictures import import_before_trackio_logs
from tbtrainer.records import Deferred, Record, Records
from tbtrainer.run.time_limit import within
from tbtrainer.sharding.agreement import same_on_all_ranks
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import own_rank

logger = logging.getLogger(__name__)

# The longest that one panel may draw.
DRAW_SECONDS = 60.0
# After this time no other panel of an evaluation begins to draw.
MOST_DRAW_SECONDS = 120.0


def panel_setting(
    trainer: Any, arguments: TensorBoardArguments, step: int, dataset: str | None
) -> PanelSetting:
    """Returns what is chosen for an evaluation, and what panels know of it.

    Args:
        trainer: A `Trainer`.
        arguments: What is shown.
        step: Optimizer steps taken so far.
        dataset: As in `Evaluation`.
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
        generation_prompts=arguments.generation_prompts,
    )
    chosen = arguments.evaluation_panels
    return PanelSetting(
        panels=chosen_panels(chosen),
        named=frozenset(name for name in chosen if isinstance(name, str)),
        evaluation=evaluation,
        sizes=ModelParallelSizes.of(trainer.accelerator, model),
    )


class EvaluationPanels(Observer):
    """Calls the panels in every evaluation. With several ranks its end has up to seven collectives.

    Args:
        setting: Returns what is chosen, at a step and for the dataset of an evaluation.
        running: Returns numbers of the evaluations and predictions that are running, the innermost
            one last.
        isolation: What happens to an error of a panel.
    """

    def __init__(
        self,
        setting: Callable[[int, str | None], PanelSetting],
        running: Callable[[], Sequence[int]],
        isolation: Isolation,
    ) -> None:
        self._setting = setting
        self._running = running
        self._isolation = isolation
        # By their numbers. Those that ended with an error stay until the next one begins.
        self._open: dict[int, OpenEvaluation] = {}
        # Panels whose drawing did not end in time, on world rank zero.
        self._hung: set[str] = set()
        self._explained: set[str] = set()

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Prepares the drawing before the first value of the training is logged."""
        with self._isolation.guard("prepare the panels"):
            if self._setting(step, None).panels:
                self._prepare_drawing()
        return ()

    def evaluation_begins(self, step: int, dataset: str | None) -> tuple[()]:
        """Opens the panels."""
        running = self._running()
        self._open = {number: self._open[number] for number in running if number in self._open}
        setting = self._setting(step, dataset)
        if setting.panels and not setting.has_whole_sequences:
            self._explain(
                "sequences",
                "Evaluations are shown without panels, because the ranks divide each sequence "
                "among them. Metrics and all else are shown.",
            )
        elif setting.panels:
            self._prepare_drawing()
            left_out = frozenset(self._hung)
            self._open[running[-1]] = OpenEvaluation(setting, left_out, self._isolation)
        return ()

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> tuple[()]:
        """Gives the panels a batch of an evaluation, but not one of a prediction."""
        running = self._running()
        opened = self._open.get(running[-1]) if running else None
        if opened is not None:
            opened.add(batch)
        return ()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> Records:
        """Brings what was kept to world rank zero, and returns what draws it."""
        opened = self._open.pop(self._running()[-1], None)
        names = [] if opened is None else [panel.panel.name for panel in opened.panels]
        # On every rank, also where the panels could not be opened.
        if not same_on_all_ranks(names):
            self._explain(
                "ranks",
                "Evaluations are shown without panels, because evaluation_panels differs between "
                "ranks, or a rank could not open them. Metrics and all else are shown.",
            )
            return ()
        if opened is None:
            return ()
        shown = opened.shown()
        self._explain_missing(opened)
        if not shown and opened.panels:
            # Not a warning: nothing is missing that was asked for by name.
            self._explain(
                "none",
                "Evaluations are shown without panels, because none of them applies to this model "
                "and this data. Metrics and all else are shown.",
                logging.INFO,
            )
        kept = opened.kept(shown) if shown else []
        if not kept:
            return ()
        ended = opened.evaluation.with_metrics(evaluation.metrics)
        return [Deferred(lambda: list(self._drawn(kept, ended)))]

    def _prepare_drawing(self) -> None:
        if own_rank() == 0:
            with self._isolation.guard("import matplotlib"):
                import_before_trackio_logs()

    def _explain_missing(self, opened: OpenEvaluation) -> None:
        """Logs once for each panel that was asked for by name and does not apply."""
        for panel in opened.panels:
            if panel.panel.name in opened.setting.named and panel.applies is False:
                self._explain(
                    panel.panel.name,
                    f"evaluation_panels has {panel.panel.name!r}, which does not apply to this "
                    "evaluation: its model or its data is of another kind. The other panels are "
                    "shown.",
                )

    def _explain(self, cause: str, message: str, level: int = logging.WARNING) -> None:
        """Logs a message on world rank zero, once per cause."""
        if cause not in self._explained and own_rank() == 0:
            logger.log(level, "%s", message)
        self._explained.add(cause)

    def _drawn(
        self, kept: Sequence[tuple[Panel, KeptOfAllRanks]], shown: PanelEvaluation
    ) -> Iterator[Record]:
        deadline = time.monotonic() + MOST_DRAW_SECONDS
        for panel, found in kept:
            if panel.name in self._hung:
                continue
            with self._isolation.guard(f"draw the evaluation panel {panel.name}"):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        "those before it took too long; the next evaluation draws it"
                    )
                try:
                    yield from within(DRAW_SECONDS, _records_of, panel, found, shown)
                except TimeoutError as error:
                    self._hung.add(panel.name)
                    raise TimeoutError(
                        f"it took longer than {DRAW_SECONDS:.0f} seconds, and is not drawn again"
                    ) from error


def _records_of(panel: Panel, kept: KeptOfAllRanks, shown: PanelEvaluation) -> list[Record]:
    return list(panel.draw(kept, shown))
