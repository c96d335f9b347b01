"""Panels during evaluations: which batches reach them, when they are left out, what ranks agree."""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers import evaluation_panels
from tbtrainer.observers.evaluation_panels import EvaluationPanels
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.open_evaluation import PanelSetting
from tbtrainer.panels import Kept, Panel
from tbtrainer.records import Deferred, Record, Scalar
from tbtrainer.sharding.ranks import ModelParallelSizes
from tests.accelerator import Accelerator
from tests.limits import HANG_SECONDS
from tests.panel_evaluations import evaluation
from tests.panels import Acting, Counted, Finishing, batch_of, failing
from tests.threaded_ranks import ThreadedRanks

ONE = [0, 1, 1]


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


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what tbtrainer has logged so far."""
    caplog.set_level(logging.WARNING, logger="tbtrainer")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("tbtrainer")]


def labels_of(panel: Counted) -> list[list[int]]:
    """The labels that were drawn, by evaluation."""
    return [kept.examples["label"].tolist() for kept in panel.kept]


def test_an_evaluation_is_drawn_with_all_its_batches() -> None:
    panel = Counted()
    assert Evaluations(panel).of([0, 1], [1]) == [Scalar("eval/ones", 2.0)]
    assert labels_of(panel) == [[0, 1, 1]] and panel.kept[0].seen == 3


def test_panels_are_drawn_in_the_order_they_were_chosen() -> None:
    first, second = Counted("b"), Counted("a")
    drawn: list[str] = []
    for panel in (first, second):
        name = panel.name
        panel.draw = lambda *a, name=name: drawn.append(name) or []  # type: ignore[misc,method-assign]
    Evaluations(first, second).of(ONE)
    assert drawn == ["b", "a"]


def test_a_draw_knows_step_dataset_and_metrics() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin("news")
    evaluations.predict(ONE)
    evaluations.end({"eval_loss": 0.5})
    (found,) = panel.evaluations
    assert (found.step, found.dataset, dict(found.metrics)) == (3, "news", {"eval_loss": 0.5})


def test_examples_that_only_fill_up_are_not_shown() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([1, 0, 1], own=2)
    evaluations.predict([1, 1, 1], own=0)
    evaluations.end()
    assert labels_of(panel) == [[1, 0]]
    assert (panel.kept[0].seen, panel.batches) == (2, [2])


def test_an_evaluation_without_examples_is_not_drawn() -> None:
    panel = Counted()
    assert Evaluations(panel).of() == []
    assert panel.kept == []


def test_a_second_evaluation_begins_anew() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.of([0, 1])
    evaluations.of([1])
    assert labels_of(panel) == [[0, 1], [1]]


def test_an_evaluation_after_a_broken_one_begins_anew() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    evaluations.leave()
    evaluations.of([1])
    assert labels_of(panel) == [[1]]


def test_an_evaluation_inside_another_is_shown_alone() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    evaluations.of([1, 1])
    evaluations.predict([0])
    evaluations.end()
    assert labels_of(panel) == [[1, 1], [0, 1, 0]]


def test_a_broken_evaluation_inside_another_is_left_out() -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.begin()
    evaluations.predict([1, 1])
    evaluations.leave()
    evaluations.predict([0])
    evaluations.end()
    assert labels_of(panel) == [[0]]


@pytest.mark.parametrize("is_inside", [True, False])
def test_the_batches_of_a_prediction_are_not_shown(is_inside: bool) -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    if is_inside:
        evaluations.begin()
        evaluations.predict([0])
    evaluations.enter()
    evaluations.predict([1, 1])
    evaluations.leave()
    if is_inside:
        evaluations.end()
    assert labels_of(panel) == ([[0]] if is_inside else [])


def test_without_panels_nothing_is_kept() -> None:
    assert Evaluations().of(ONE) == []


# ---- Faults ----


@pytest.mark.parametrize("method", ["applies", "batch", "draw"])
def test_a_failing_panel_leaves_the_others(method: str, warnings: Callable[[], list[str]]) -> None:
    other = Counted()
    evaluations = Evaluations(Acting(method, failing), other)
    for _ in range(2):
        assert evaluations.of([0, 1], [1]) == [Scalar("eval/ones", 2.0)]
    (message,) = warnings()
    assert "evaluation panel Acting" in message and "no such luck" in message


def test_a_panel_that_fails_to_finish_leaves_the_others(
    warnings: Callable[[], list[str]],
) -> None:
    assert len(Evaluations(Finishing(failing), Counted()).of(ONE)) == 1
    assert len(warnings()) == 1


def test_a_failing_panel_is_asked_again_next_time() -> None:
    panel = Acting("batch", failing)
    evaluations = Evaluations(panel)
    evaluations.of(ONE)
    del vars(panel)["batch"]
    evaluations.of(ONE)
    assert labels_of(panel) == [ONE]


def test_errors_can_be_raised() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        Evaluations(Acting("batch", failing), action="raise").of(ONE)


def test_a_batch_that_cannot_be_read_leaves_panels_out(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = Counted()
    evaluations = Evaluations(panel)
    evaluations.begin()
    evaluations.predict([0, 1])
    with monkeypatch.context() as patched:
        patched.setattr("tbtrainer.observers.open_evaluation.panel_batch", failing)
        evaluations.predict([1])
    evaluations.predict([1])
    assert evaluations.end() == [] and panel.kept == []
    assert "no such luck" in warnings()[0]


def test_a_panel_that_is_named_says_why_it_is_missing(
    warnings: Callable[[], list[str]],
) -> None:
    panel = Acting("applies", lambda evaluation: False)
    evaluations = Evaluations(panel, named=("Acting", "auto"))
    for _ in range(2):
        evaluations.of(ONE)
    (message,) = warnings()
    assert "'Acting', which does not apply" in message


def test_a_panel_of_auto_is_missing_without_a_word(warnings: Callable[[], list[str]]) -> None:
    evaluations = Evaluations(Acting("applies", lambda evaluation: False), named=("auto",))
    evaluations.of(ONE)
    assert warnings() == []


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Acting]:
    """A panel whose drawing does not end before the test does."""
    monkeypatch.setattr(evaluation_panels, "DRAW_SECONDS", 0.01)
    released = threading.Event()
    yield Acting("draw", lambda *arguments: [released.wait(HANG_SECONDS)][:0])
    released.set()


def test_a_hung_panel_leaves_the_others_drawn(
    hanging: Acting, warnings: Callable[[], list[str]]
) -> None:
    other = Counted()
    # Drawn without a limit that a slow machine could reach.
    assert Evaluations(hanging, other).of(ONE)[-1:] == [Scalar("eval/ones", 2.0)] or warnings()[1:]
    assert "evaluation panel Acting" in warnings()[0] and "not drawn again" in warnings()[0]


def test_a_hung_panel_is_left_out_afterwards(hanging: Acting) -> None:
    evaluations = Evaluations(hanging)
    evaluations.of(ONE)
    assert hanging.batches == [3]
    evaluations.of(ONE)
    assert hanging.batches == [3]


def test_a_panel_without_a_word_of_why_is_hung_once(
    hanging: Acting, warnings: Callable[[], list[str]]
) -> None:
    evaluations = Evaluations(hanging)
    for _ in range(3):
        evaluations.of(ONE)
    assert len(warnings()) == 1


# ---- What an evaluation must not notice ----


def draw_random_numbers(shown: Any) -> None:
    torch.rand(3), np.random.rand(3), random.random()


def test_finish_leaves_the_random_states_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    Evaluations(Finishing(draw_random_numbers)).of(ONE)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_the_first_batch_takes_no_memory_after_applies() -> None:
    asked: list[Tensor] = []
    panel = Acting("applies", lambda shown: asked.append(shown.first_batch.labels) or True)
    panel.batch = lambda batch, shown: asked.append(shown.first_batch.labels)  # type: ignore[method-assign]
    panel.draw = lambda kept, shown: asked.append(shown.first_batch.labels) or []  # type: ignore[method-assign]
    Evaluations(panel, action="raise").of(ONE, [1])
    assert [labels.device.type for labels in asked] == ["cpu", "meta", "meta", "meta"]
    assert [labels.shape for labels in asked] == [(3,)] * 4


def test_a_batch_is_not_waited_for() -> None:
    panel = Counted()
    evaluations = Evaluations(panel, action="raise")
    with Accelerator("lazy") as accelerator:
        evaluations.begin()
        accelerator.may_be_waited_for = False
        for labels in ([0, 1, 1], [1, 0, 0], [1, 0, 1]):
            evaluations.predict(accelerator.put(torch.tensor(labels)), own=2)
        accelerator.may_be_waited_for = True
        evaluations.end()
    assert labels_of(panel) == [[0, 1, 1, 0, 1, 0]]
    assert panel.kept[0].totals["labels"].tolist() == [3, 3]


# ---- Several ranks ----


class Ranks:
    """One evaluation on several ranks: the labels of a rank are its number plus 10 times the batch.

    Args:
        number: Of ranks.
        panels: Returns the panels of a rank.
        sizes: How many ranks share the work on one example.
    """

    def __init__(
        self,
        number: int,
        panels: Callable[[int], list[Panel]],
        sizes: ModelParallelSizes | None = None,
        batches: Callable[[int], list[list[int]]] = lambda rank: [[rank], [rank + 10]],
    ) -> None:
        self.panels: dict[int, list[Panel]] = {}

        def evaluate(rank: int) -> list[Record]:
            self.panels[rank] = panels(rank)
            return Evaluations(*self.panels[rank], sizes=sizes).of(*batches(rank))

        threads = ThreadedRanks(number)
        self.records = threads.run(evaluate)
        self.collectives = threads.collectives


def test_world_rank_zero_alone_draws_what_all_saw() -> None:
    found = Ranks(3, lambda rank: [Counted()])
    drawn = [panel.kept for panels in found.panels.values() for panel in panels if panel.kept]
    ((kept,),) = drawn
    assert found.panels[0][0].kept == [kept]
    assert kept.examples["label"].tolist() == [0, 1, 2, 10, 11, 12]
    assert kept.seen == 6
    assert [bool(records) for records in found.records] == [True, False, False]


@pytest.mark.parametrize("method", ["applies", "batch"])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_panel_failing_on_one_rank_is_left_out_everywhere(method: str, bad: int) -> None:
    def panels(rank: int) -> list[Panel]:
        first = Acting(method, failing) if rank == bad else Counted("Acting")
        return [first, Counted()]

    found = Ranks(2, panels)
    assert found.panels[0][0].kept == []
    assert found.panels[0][1].kept[0].seen == 4


def test_a_panel_that_cannot_finish_somewhere_is_left_out() -> None:
    found = Ranks(
        2, lambda rank: [Finishing(failing if rank == 1 else lambda shown: None), Counted()]
    )
    assert found.panels[0][0].kept == []
    assert len(found.panels[0][1].kept) == 1


def test_a_panel_that_one_rank_refuses_is_left_out() -> None:
    found = Ranks(2, lambda rank: [Acting("applies", lambda shown: rank == 0)])
    assert found.panels[0][0].kept == []


def test_a_rank_without_examples_leaves_the_others_theirs() -> None:
    found = Ranks(3, lambda rank: [Counted()], batches=lambda rank: [[rank]] if rank < 2 else [])
    assert found.panels[0][0].kept[0].examples["label"].tolist() == [0, 1]


def test_every_rank_is_asked_to_finish_equally_often() -> None:
    asked: list[str] = []
    found = Ranks(
        3,
        lambda rank: [Finishing(lambda shown: asked.append("asked"))],
        batches=lambda rank: [[rank]] if rank < 1 else [],
    )
    assert len(asked) == 3 and len(found.panels[0][0].kept) == 1


@pytest.mark.parametrize("others", [[], [Counted("other")], [Counted(), Counted("other")]])
def test_ranks_with_other_panels_show_none(
    others: list[Panel], warnings: Callable[[], list[str]]
) -> None:
    found = Ranks(2, lambda rank: [Counted()] if rank == 0 else others)
    assert found.records == [[], []]
    assert ["differs between ranks" in message for message in warnings()] == [True]


def test_panels_switched_off_take_one_small_collective() -> None:
    assert len(Ranks(2, lambda rank: []).collectives) == 1


def test_a_panel_takes_five_collectives_at_most() -> None:
    assert len(Ranks(2, lambda rank: [Counted(), Counted("b")]).collectives) == 5


def test_ranks_that_divide_layers_show_an_example_once() -> None:
    found = Ranks(
        4,
        lambda rank: [Counted(), Finishing(finished)],
        ModelParallelSizes(tensor=2),
        # Both ranks of a pair are given the same examples; the second counts none.
        batches=lambda rank: [[rank], [rank + 10]] if rank % 2 == 0 else [],
    )
    kept = found.panels[0][0].kept[0]
    assert kept.examples["label"].tolist() == [0, 2, 10, 12]
    assert kept.totals["labels"].tolist() == [1, 0]
    assert found.panels[0][1].kept[0].totals["finished"] == 2


def finished(shown: Any) -> Kept:
    return Kept(totals={"finished": torch.tensor(1)})


@pytest.mark.parametrize("sizes", [{"context": 2}, {"sequence": 2}, {"tensor": 2, "context": 2}])
def test_panels_step_aside_where_sequences_are_divided(
    sizes: dict[str, int], warnings: Callable[[], list[str]]
) -> None:
    divided = ModelParallelSizes(**sizes)
    found = Ranks(2, lambda rank: [Counted()], divided)
    assert found.records == [[], []] and found.panels[0][0].batches == []
    assert ["divide each sequence" in message for message in warnings()] == [True]


def test_stepping_aside_is_explained_once(warnings: Callable[[], list[str]]) -> None:
    evaluations = Evaluations(Counted(), sizes=ModelParallelSizes(context=2))
    for _ in range(3):
        evaluations.of(ONE)
    assert len(warnings()) == 1
