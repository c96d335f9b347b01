"""What panels kept on all ranks: joined by panel, and a fault of one leaves the others whole."""

import pickle
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tbtrainer.panels import Kept, KeptOfAllRanks, all_ranks
from tbtrainer.panels.all_ranks import kept_of_all_ranks
from tbtrainer.panels.open_panel import OpenPanel, Place
from tests.panel_evaluations import evaluation
from tests.panels import Counted
from tests.threaded_ranks import ThreadedRanks

# What each rank kept, by panel; `None` for nothing.
Parts = list[Kept | None]


class Together:
    """Some ranks bring together what they kept.

    Attributes:
        shown: On rank zero, by the panel's name.
        reports: Rank, panel and text of each error.
    """

    def __init__(
        self, *ranks: Parts, damage: Callable[[int, list[OpenPanel]], None] | None = None
    ) -> None:
        self.reports: list[tuple[int, str, str]] = []

        def run(rank: int) -> list[tuple[OpenPanel, KeptOfAllRanks]]:
            def report(panel: OpenPanel, error: Exception) -> None:
                self.reports.append((rank, panel.panel.name, str(error)))

            panels = []
            for number, kept in enumerate(ranks[rank]):
                panel = OpenPanel(Counted(f"panel {number}"), Place(rank, len(ranks)))
                panel._keep(kept, evaluation(), 10 * rank)
                panels.append(panel)
            if damage is not None:
                damage(rank, panels)
            return kept_of_all_ranks(panels, evaluation(), rank + 1, report)

        found = ThreadedRanks(len(ranks)).run(run)
        assert found[1:] == [[]] * (len(ranks) - 1)
        self.shown = {panel.panel.name: kept for panel, kept in found[0]}


def kept(*values: int, **totals: torch.Tensor) -> Kept:
    return Kept(examples={"value": torch.tensor(values)} if values else {}, totals=totals)


def values_in(found: KeptOfAllRanks) -> list[int]:
    values: list[int] = found.examples["value"].tolist()
    return values


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_examples_of_all_ranks_are_in_their_order(ranks: int) -> None:
    found = Together(*[[kept(rank, rank)] for rank in range(ranks)]).shown["panel 0"]
    assert values_in(found) == [rank for rank in range(ranks) for _ in range(2)]
    assert found.priority is None


def test_examples_of_all_ranks_are_sorted_by_priority() -> None:
    parts: list[Parts] = [
        [Kept({"value": torch.tensor([1, 4, 9])}, torch.tensor([0.1, 0.4, float("nan")]))],
        [Kept({"value": torch.tensor([3, 2])}, torch.tensor([0.3, 0.2]))],
    ]
    found = Together(*parts).shown["panel 0"]
    assert values_in(found) == [4, 3, 2, 1]
    assert found.priority is not None
    np.testing.assert_allclose(found.priority, [0.4, 0.3, 0.2, 0.1])


def test_totals_of_all_ranks_are_added() -> None:
    counts, sums = torch.tensor([[1, 2], [3, 4]]), torch.tensor(0.5)
    found = Together(*[[kept(n=counts, x=sums)]] * 3).shown["panel 0"]
    assert found.totals["n"].tolist() == [[3, 6], [9, 12]]
    assert found.totals["n"].dtype == np.int64
    assert found.totals["x"].shape == () and float(found.totals["x"]) == 1.5


def test_examples_seen_on_all_ranks_are_added() -> None:
    assert Together([kept(1)], [kept(2)], [kept(3)]).shown["panel 0"].seen == 1 + 2 + 3


def test_a_rank_may_have_kept_nothing() -> None:
    found = Together([None], [kept(1, n=torch.tensor(2))], [None]).shown["panel 0"]
    assert values_in(found) == [1] and found.totals["n"].tolist() == 2


def test_a_panel_that_kept_nothing_anywhere_is_shown() -> None:
    found = Together([None], [None]).shown["panel 0"]
    assert (found.examples, found.priority, found.totals) == ({}, None, {})


def test_a_panel_kept_nothing_on_one_rank_beside_another() -> None:
    total = torch.tensor(2)
    found = Together([kept(n=total), None], [kept(n=total), kept(m=total)]).shown
    assert found["panel 0"].totals["n"] == 4 and found["panel 1"].totals["m"] == 2


@pytest.mark.parametrize(
    "here, there, said",
    [
        (kept(n=torch.tensor(1)), kept(m=torch.tensor(1)), "different totals"),
        (kept(n=torch.tensor(1)), kept(n=torch.tensor(1.0)), "different totals"),
        (kept(n=torch.tensor(1)), kept(n=torch.tensor([1])), "different totals"),
        (kept(1), Kept({"other": torch.tensor([1])}), "different columns"),
        (kept(1), Kept({"value": torch.tensor([1])}, torch.tensor([0.5])), "different columns"),
        (kept(1), Kept({"value": torch.zeros(1, 2)}), "dimension"),
    ],
)
def test_parts_that_do_not_fit_leave_the_others(here: Kept, there: Kept, said: str) -> None:
    found = Together([kept(1), here, kept(2)], [kept(3), there, kept(4)])
    assert list(found.shown) == ["panel 0", "panel 2"]
    assert values_in(found.shown["panel 2"]) == [2, 4]
    ((rank, panel, message),) = found.reports
    assert (rank, panel) == (0, "panel 1") and said in message


def test_what_one_rank_cannot_copy_is_left_out() -> None:
    def damage(rank: int, panels: list[OpenPanel]) -> None:
        if rank == 1:
            panels[0].examples = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]

    found = Together([kept(1), kept(2)], [kept(3), kept(4)], damage=damage)
    assert list(found.shown) == ["panel 1"]
    assert values_in(found.shown["panel 1"]) == [2, 4]
    assert found.reports == [(1, "panel 0", "division by zero")]


def test_a_rank_that_cannot_pack_its_parts_meets_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dumps(sent: object) -> bytes:
        if dist.get_rank() == 1 and "value" in repr(sent):
            raise MemoryError("no memory")
        return pickle.dumps(sent)

    monkeypatch.setattr(all_ranks, "pickle", SimpleNamespace(dumps=dumps, loads=pickle.loads))
    found = Together([kept(1), kept(2)], [kept(3), kept(4)])
    assert found.shown == {}
    assert found.reports == [(1, "panel 0", "no memory"), (1, "panel 1", "no memory")]
