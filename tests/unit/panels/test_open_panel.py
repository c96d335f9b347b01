"""One panel in one evaluation: when it is called, and what is kept of what it returns."""

import pytest
import torch

from tbtrainer.panels import Kept, PanelBatch, PanelEvaluation
from tbtrainer.panels.open_panel import OpenPanel, Place
from tests.panel_evaluations import evaluation
from tests.panels import Acting, Counted, Finishing, failing, panel_batch_of


def shown(panel: Counted, *batches: list[int], place: Place | None = None) -> OpenPanel:
    """The panel after some batches with these labels."""
    opened, first = OpenPanel(panel, place or Place()), 0
    for labels in batches:
        if not opened.is_out:
            opened.add(panel_batch_of(torch.tensor(labels)), evaluation(), first)
        first += len(labels)
    return opened


def labels_in(opened: OpenPanel) -> list[int]:
    examples = opened.examples()
    return [] if examples is None else examples.ordered().columns["label"].tolist()


def test_what_a_panel_returns_of_batches_is_kept() -> None:
    opened = shown(Counted(), [0, 1, 1], [1, 0])
    assert labels_in(opened) == [0, 1, 1, 1, 0]
    assert opened.totals.sums["labels"].tolist() == [2, 3]


def test_a_panel_is_asked_once_whether_it_applies() -> None:
    asked: list[PanelEvaluation] = []

    def applies(evaluation: PanelEvaluation) -> bool:
        asked.append(evaluation)
        return True

    shown(Acting("applies", applies), [0, 1], [1])
    (only,) = asked
    assert only.first_batch is not None and only.first_batch.labels.tolist() == [0, 1]


def test_a_panel_that_does_not_apply_sees_no_batch() -> None:
    panel = Acting("applies", lambda evaluation: False)
    opened = shown(panel, [0, 1], [1])
    assert opened.is_out and panel.batches == []


def test_a_panel_may_keep_nothing_of_a_batch() -> None:
    opened = shown(Acting("batch", lambda batch, evaluation: None), [0, 1])
    assert opened.examples() is None and opened.totals.sums == {}


def test_an_error_of_a_panel_is_the_callers() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        shown(Acting("batch", failing), [0, 1])


@pytest.mark.parametrize("counts, kept", [(True, [7]), (False, [])])
def test_what_finish_returns_is_kept_where_examples_count(counts: bool, kept: list[int]) -> None:
    panel = Finishing(lambda evaluation: Kept(examples={"label": torch.tensor([7])}))
    opened = OpenPanel(panel, Place(counts=counts))
    opened.finish(evaluation(), 10)
    assert labels_in(opened) == kept


@pytest.mark.parametrize("most, examples, expected", [(None, 9, 9), (4, 9, 4), (50, 9, 9)])
def test_a_panel_keeps_no_more_than_either_limit(
    most: int | None, examples: int, expected: int
) -> None:
    panel = Counted()
    panel.most_examples = most
    assert OpenPanel(panel, Place()).most(evaluation(examples=examples)) == expected


@pytest.mark.parametrize("places, rows", [(1, 500), (2, 500), (4, 250), (100, 10)])
def test_what_one_rank_keeps_shrinks_with_their_number(places: int, rows: int) -> None:
    def batch(batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        return Kept(examples={"row": torch.zeros(batch.size, 1000)})

    opened = shown(Acting("batch", batch), [0] * 700, place=Place(places=places))
    examples = opened.examples()
    assert examples is not None and len(examples.numbers) == rows
