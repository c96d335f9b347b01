"""Panels during evaluations on several ranks: what they agree on, and who draws."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tbtrainer.panels import Kept, Panel
from tbtrainer.records import Record
from tbtrainer.sharding.ranks import ModelParallelSizes
from tests.panels import Acting, Counted, Finishing, failing
from tests.rank_evaluations import Evaluations
from tests.threaded_ranks import ThreadedRanks

ONE = [0, 1, 1]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what tbtrainer has logged so far."""
    caplog.set_level(logging.WARNING, logger="tbtrainer")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("tbtrainer")]


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


def test_panels_take_six_collectives_at_most() -> None:
    assert len(Ranks(2, lambda rank: [Counted(), Counted("b")]).collectives) == 6


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
