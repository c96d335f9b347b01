"""Panels see every example once on all ranks together, and change nothing about an evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tbtrainer.panels.sample import hashes
from tests.distributed.evaluations import ROWS, Numbered
from tests.distributed.launch import launch
from tests.tiny import classifier

# How the ranks are given examples: the loader that does it, how many they are, on how many ranks.
GIVEN = {
    "with_map_dataset": ("DataLoaderShard", ROWS, 3),
    "with_fewer_examples_than_ranks": ("DataLoaderShard", 2, 3),
    "with_iterable": ("DataLoaderDispatcher", ROWS, 3),
    "with_dispatched_batches": ("DataLoaderDispatcher", ROWS, 3),
    "with_split_batches": ("DataLoaderShard", ROWS, 3),
    "with_unfilled_batches": ("DataLoaderShard", 22, 3),
    "with_unequal_shards": ("DataLoaderShard", 22, 3),
    "with_fsdp2": ("DataLoaderShard", ROWS, 2),
    "with_tensor_parallel": ("DataLoaderShard", ROWS, 2),
    "with_tensor_parallel_and_fsdp2": ("DataLoaderShard", ROWS, 4),
}
OTHERS = {
    "with_stock_trainer": 3,
    "with_few_kept": 3,
    "with_every_rank_reading": 3,
    "with_failing_panels": 3,
    "with_other_panels": 3,
    "with_failing_metrics": 3,
    "in_training": 3,
}
# A rank does not know how many examples the others have.
WITHOUT_ORDER = ("with_unfilled_batches", "with_unequal_shards")
# What each rank found in a case.
Case = list[dict[str, Any]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """A function that runs all cases of a number of ranks when the first is asked for."""
    ranks = {**{name: given[2] for name, given in GIVEN.items()}, **OTHERS}
    known: dict[str, Case] = {}

    def found(name: str) -> Case:
        if name not in known:
            together = [other for other, number in ranks.items() if number == ranks[name]]
            directory = str(tmp_path_factory.mktemp("evaluations"))
            known.update(launch("evaluations.py", directory, *together, processes=ranks[name]))
        return known[name]

    return found


def drawn(found: Case, panel: int = 0) -> dict[str, Any]:
    """What a panel has drawn on world rank zero."""
    (only,) = found[0]["drawn"][panel]
    shown: dict[str, Any] = only
    return shown


@pytest.mark.parametrize("name", GIVEN)
def test_every_example_is_shown_once(case: Callable[[str], Case], name: str) -> None:
    _, rows, _ = GIVEN[name]
    shown = drawn(case(name))
    assert sorted(shown["row"]) == list(range(rows))
    assert shown["seen"] == rows


@pytest.mark.parametrize("name", GIVEN)
def test_the_mode_is_really_on(case: Callable[[str], Case], name: str) -> None:
    for found in case(name):
        assert found["distributed_type"] == "DistributedType.MULTI_CPU"
        assert found["loader"] == GIVEN[name][0]
        assert ("DTensor" in found["parameters"]) == (GIVEN[name][2] != 3)
        assert found["wrapper"].startswith("FSDP") == ("fsdp2" in name)


@pytest.mark.parametrize("name", GIVEN)
def test_totals_are_those_of_every_example(case: Callable[[str], Case], name: str) -> None:
    shown = drawn(case(name))
    labels = Numbered(GIVEN[name][1]).labels
    assert shown["labels"] == torch.bincount(labels, minlength=2).tolist()
    assert [shown["label"][shown["row"].index(row)] for row in range(len(labels))] == (
        labels.tolist()
    )


@pytest.mark.parametrize("name", [name for name in GIVEN if name not in WITHOUT_ORDER])
def test_examples_are_in_the_order_of_the_data(case: Callable[[str], Case], name: str) -> None:
    rows = drawn(case(name))["row"]
    assert rows == sorted(rows)


@pytest.mark.parametrize("name", ["with_map_dataset", "with_iterable", "with_fsdp2"])
def test_totals_are_sums_of_what_metrics_see(case: Callable[[str], Case], name: str) -> None:
    found = case(name)
    expected = found[0]["metrics"]["eval_sum"]
    # The same numbers in float64, added up in another order.
    assert sum(drawn(found)["logits"]) == pytest.approx(expected, rel=1e-12)


def test_the_highest_priorities_are_those_of_all_ranks(case: Callable[[str], Case]) -> None:
    with torch.no_grad():
        logits = classifier().eval()(Numbered().tokens).logits
    expected = logits[:, 1].argsort(descending=True)[:5].tolist()
    assert drawn(case("with_map_dataset"), panel=1)["row"] == expected


def test_divided_layers_have_the_priorities_of_whole_ones(case: Callable[[str], Case]) -> None:
    divided = drawn(case("with_tensor_parallel"), panel=1)["row"]
    assert divided == drawn(case("with_fsdp2"), panel=1)["row"]


def test_a_sample_is_that_of_one_process(case: Callable[[str], Case]) -> None:
    expected = np.sort(np.argsort(hashes(np.arange(ROWS)))[:7]).tolist()
    shown = drawn(case("with_few_kept"))
    assert (shown["row"], shown["seen"]) == (expected, ROWS)


def test_only_world_rank_zero_draws(case: Callable[[str], Case]) -> None:
    for found in case("with_map_dataset")[1:]:
        assert found["drawn"] == [[], []]


def test_filled_up_examples_count_where_metrics_count_them(case: Callable[[str], Case]) -> None:
    found = case("with_every_rank_reading")
    assert found[0]["metrics"]["eval_examples"] == drawn(found)["seen"] == 24


def test_a_panel_failing_on_one_rank_is_left_out_everywhere(case: Callable[[str], Case]) -> None:
    found = case("with_failing_panels")
    *failing, good = found[0]["drawn"]
    assert failing == [[], [], [], []]
    assert good[0]["seen"] == ROWS


def test_a_failure_is_reported_by_its_rank(case: Callable[[str], Case]) -> None:
    for rank, found in enumerate(case("with_failing_panels")):
        named = [f"panel {method} on {rank}:" for method in ("applies", "batch")]
        warned = [message for message in found["warnings"] if "no such luck" in message]
        assert len(warned) == (2 if rank < 2 else 0)
        assert all(name in message for name, message in zip(named, warned, strict=False))


def test_ranks_with_other_panels_evaluate_without(case: Callable[[str], Case]) -> None:
    found = case("with_other_panels")
    assert [rank["drawn"] for rank in found] == [[[]]] * 3
    said = [[m for m in rank["warnings"] if "differs between ranks" in m] for rank in found]
    assert [len(messages) for messages in said] == [1, 0, 0]


def test_metrics_failing_on_one_rank_let_no_other_wait(case: Callable[[str], Case]) -> None:
    found = case("with_failing_metrics")
    assert [rank["examples"][0] for rank in found] == [ROWS, "no score", ROWS]
    assert [rank["examples"][1] for rank in found] == [ROWS] * 3
    assert [rank["seen"] for rank in found] == [[ROWS, ROWS], [], []]


def test_metrics_losses_and_random_states_are_stocks(case: Callable[[str], Case]) -> None:
    for stock, ours in zip(case("with_stock_trainer"), case("with_map_dataset"), strict=True):
        assert ours["metrics"] == stock["metrics"]
        assert ours["random"] == stock["random"]


def test_a_training_with_evaluations_is_stocks(case: Callable[[str], Case]) -> None:
    found = case("in_training")
    assert [rank["wrapper"] for rank in found] == ["DistributedDataParallel"] * 3
    assert [set(rank["equal"].values()) for rank in found] == [{True}] * 3
    assert [rank["drawn"] for rank in found] == [[[ROWS, ROWS]], [[]], [[]]]
