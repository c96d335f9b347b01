"""Norms where one rank fails, and tensors that differ where few elements show it."""

from typing import Any

import pytest

from tests.distributed.launch import launch

CASES = ("one_rank_has_no_memory_for_norms", "zero_biases_that_differ")


@pytest.fixture(scope="module")
def cases() -> Any:
    """Results and warnings of both ranks, for each case."""
    return launch("agreement_cases.py", *CASES)


def test_a_rank_without_memory_for_norms_hangs_no_other(cases: Any) -> None:
    for rank in cases["one_rank_has_no_memory_for_norms"]:
        norms, expected = zip(*rank["result"], strict=True)
        # A step that one rank could not measure is in no number.
        assert norms[1:4] == (None, None, None)
        assert norms[0] == pytest.approx(expected[0], rel=1e-6)
        assert norms[4] == pytest.approx(expected[4], rel=1e-6)


def test_a_rank_without_memory_for_norms_warns(cases: Any) -> None:
    here, there = cases["one_rank_has_no_memory_for_norms"]
    assert here["warnings"] == []
    assert any("no room" in message for message in there["warnings"])


def test_parts_that_begin_with_zeros_are_not_taken_for_whole(cases: Any) -> None:
    shown = [rank["result"] for rank in cases["zero_biases_that_differ"]]
    assert "frozen.bias" not in shown[0]
    assert shown[0] == shown[1]


def test_whole_tensors_of_nan_are_equal(cases: Any) -> None:
    assert "frozen.weight" in cases["zero_biases_that_differ"][0]["result"]
