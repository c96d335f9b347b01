"""Gradients of an offloaded ZeRO-3 optimizer are read where they lie."""

from typing import Any

import pytest

from tests.distributed.launch import launch


@pytest.fixture(scope="module")
def ranks() -> Any:
    """What both ranks found."""
    pytest.importorskip("deepspeed")
    return launch("zero3_offload.py")


def test_the_optimizer_is_offloaded(ranks: Any) -> None:
    assert [rank["offloads"] for rank in ranks] == [True, True]


def test_no_gradient_is_fetched_through_deepspeed(ranks: Any) -> None:
    assert [rank["looked_up"] for rank in ranks] == [[], []]


def test_gradients_are_not_copied(ranks: Any) -> None:
    assert [rank["in_place"] for rank in ranks] == [True, True]


def test_norms_are_those_of_the_gathered_gradients(ranks: Any) -> None:
    for rank in ranks:
        assert len(rank["expected"]) > 5
        assert rank["found"] == pytest.approx(rank["expected"], rel=1e-6)


def test_gradients_on_nvme_are_left_out_before_the_first_step(ranks: Any) -> None:
    for rank in ranks:
        assert rank["on_nvme"]["gradients"] == 0
        assert rank["on_nvme"]["parameters"] == rank["on_nvme"]["rows"]
    (message,) = ranks[0]["on_nvme"]["warnings"]
    assert "NVMe" in message
    assert "gradients" in message
