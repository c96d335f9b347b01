"""What the ranks do where one of them cannot read, list or build something."""

from typing import Any

import pytest

from tests.distributed.launch import launch


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    """Results and warnings of both ranks, for each case."""
    return launch("agreement_cases.py")


def test_a_tensor_that_differs_is_left_out_on_all_ranks(
    cases: dict[str, Any],
) -> None:
    shown = [rank["result"] for rank in cases["parts_of_an_unknown_sharding"]]
    assert "frozen.weight" not in shown[0]
    assert len(shown[0]) == 15
    assert shown[0] == shown[1]


def test_rank_zero_warns_once_of_what_is_left_out(cases: dict[str, Any]) -> None:
    warned = [rank["warnings"] for rank in cases["parts_of_an_unknown_sharding"]]
    assert [len(messages) for messages in warned] == [1, 0]
    assert "frozen.weight" in warned[0][0]


def test_a_tensor_marked_as_a_part_is_left_out(cases: dict[str, Any]) -> None:
    assert "frozen.bias" not in cases["marked_parts"][0]["result"]


def test_ranks_with_different_parameters_show_none(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["different_parameters"]] == [[], []]


def test_a_rank_that_cannot_list_parameters_stops_no_other(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["one_rank_cannot_list"]] == [[], []]


def test_a_rank_that_cannot_read_a_tensor_reaches_the_collective(cases: dict[str, Any]) -> None:
    found = cases["one_rank_cannot_read"][0]["result"]
    assert found["mismatches"] == ["embed.weight has 77 elements, 42 were counted"]
    assert found["right"] == found["rows"] - 1


def test_a_rank_that_cannot_read_a_tensor_warns(cases: dict[str, Any]) -> None:
    (message,) = cases["one_rank_cannot_read"][1]["warnings"]
    assert "embed.weight" in message


def test_a_rank_without_memory_reaches_every_collective(
    cases: dict[str, Any],
) -> None:
    here, there = cases["one_rank_has_no_memory"]
    # Of the first, what is whole without that rank is right, and what is not is left out.
    assert here["result"] == [1, 2]
    assert any("no room for the counters" in message for message in there["warnings"])


def test_an_observer_one_rank_cannot_begin_begins_on_none(cases: dict[str, Any]) -> None:
    here, there = cases["one_rank_cannot_begin"]
    assert here["result"] == []
    for rank in (here, there):
        assert any("left out of this training" in message for message in rank["warnings"])


def test_a_rank_without_memory_to_agree_shows_nothing(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["one_rank_has_no_memory_to_agree"]] == [[], []]


def test_a_failure_on_one_rank_is_known_on_all(cases: dict[str, Any]) -> None:
    for rank in cases["failures_are_agreed"]:
        assert rank["result"]["common"] == [True, False]
        assert rank["result"]["added everywhere"] == [False, True]


def test_observers_that_differ_are_decided_on_alone(cases: dict[str, Any]) -> None:
    here, there = (rank["result"] for rank in cases["failures_are_agreed"])
    assert [here["added and different"], there["added and different"]] == [
        [False, True],
        [False, False],
    ]
    assert [here["added on one rank"], there["added on one rank"]] == [[False], [False, True]]


def test_all_ranks_have_world_rank_zeros_schedule(cases: dict[str, Any]) -> None:
    assert [rank["result"] for rank in cases["schedules_are_agreed"]] == [[3, 10], [3, 10]]


def test_a_sparse_gradient_is_left_out_with_one_warning(cases: dict[str, Any]) -> None:
    assert cases["sparse_gradient"][0]["result"] == [False, True, True]
    assert len(cases["sparse_gradient"][0]["warnings"]) == 1


def test_partial_sums_are_left_out(cases: dict[str, Any]) -> None:
    found = [rank["result"] for rank in cases["partial_sums"]]
    assert found == [{"rows": ["whole"], "gradients": [False]}] * 2


def test_a_snapshot_takes_three_collectives_of_any_model(
    cases: dict[str, Any],
) -> None:
    results = [rank["result"] for rank in cases["collectives"]]
    assert [len(result["small"]) for result in results] == [3, 3]
    assert all(result["small"] == result["large"] for result in results)


def test_narrow_rows_are_the_same_on_all_ranks(cases: dict[str, Any]) -> None:
    here, there = (rank["result"] for rank in cases["narrow_rows_of_shards"])
    assert [here[0], here[3]] == [there[0], there[3]] == [[0, 0], [1, 90_000]]


def test_narrow_rows_a_rank_does_not_know_stay_incomplete(cases: dict[str, Any]) -> None:
    here, there = (rank["result"] for rank in cases["narrow_rows_of_shards"])
    # At the second snapshot the other rank could not measure, so at the third it knows none.
    assert (here[1], there[1]) == ([1, 45_000], [-1, -1])
    assert (here[2], there[2]) == ([1, 45_000], [0, 45_000])
