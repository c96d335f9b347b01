"""A model that is divided over ranks generates as on one process, or a message says why not."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch


def evaluated_in(mode: str, directory: Path) -> dict[str, Any]:
    """The verdict of an evaluation on two processes."""
    verdict: dict[str, Any] = launch("generating.py", mode, str(directory))
    return verdict


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The cards under DDP, where world rank zero generates alone."""
    verdict = evaluated_in("ddp", tmp_path_factory.mktemp("ddp"))
    assert [rank["parameters"] for rank in verdict["ranks"]] == [["Tensor"]] * 2
    cards: list[str] = verdict["cards"]
    return cards


def test_a_model_divided_by_fsdp2_generates_as_a_whole_one(
    expected: list[str], tmp_path: Path
) -> None:
    verdict = evaluated_in("fsdp2", tmp_path)
    for rank in verdict["ranks"]:
        assert rank["distributed_type"] == "DistributedType.FSDP"
        assert "DTensor" in rank["parameters"]
        assert rank["warnings"] == []
    assert verdict["cards"] == expected
    assert all(len(card.splitlines()) >= 4 for card in expected)


def test_fsdp1_is_left_out_with_one_message(tmp_path: Path) -> None:
    verdict = evaluated_in("fsdp1", tmp_path)
    assert verdict["cards"] == ["", ""]
    first, second = (rank["warnings"] for rank in verdict["ranks"])
    assert len(first) == 1 and "FSDP1" in first[0]
    assert second == []
