"""The slowest rank is found, and every rank reaches the collective of a logging step."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.distributed.slow_rank import ROWS, SLEEP_SECONDS
from tests.events import event_files, scalars
from tests.tiny import LENGTH


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slow_rank")


@pytest.fixture(scope="module")
def verdict(directory: Path) -> Any:
    return launch("slow_rank.py", str(directory))


@pytest.fixture(scope="module")
def shown(verdict: Any, directory: Path) -> dict[tuple[str, int], float]:
    (file,) = event_files(directory / "run")
    return {(tag, step): value for tag, step, value in scalars(file)}


def test_ranks_wait_for_each_other_before_the_forward_pass(verdict: Any) -> None:
    # The items are those of both ranks, so the wait of one rank for its data delays the other.
    assert verdict["averages"] and verdict["items"] > ROWS * LENGTH


@pytest.mark.parametrize("step", [4, 8])
def test_the_rank_with_a_slow_loader_is_the_slowest(
    shown: dict[tuple[str, int], float], step: int
) -> None:
    assert shown["throughput/slowest_rank", step] == 1


@pytest.mark.parametrize("step", [4, 8])
def test_the_wait_of_the_other_rank_is_not_its_own(
    shown: dict[tuple[str, int], float], step: int
) -> None:
    # It would be 1 if the other rank's wait for this one counted as its own.
    assert shown["throughput/rank_spread", step] > 1.5


@pytest.mark.parametrize("step", [4, 8])
def test_tokens_are_those_of_both_ranks(shown: dict[tuple[str, int], float], step: int) -> None:
    tokens = shown["throughput/tokens_per_second", step]
    samples = shown["throughput/samples_per_second", step]
    assert tokens / samples == pytest.approx(LENGTH - LENGTH // 4, rel=1e-5)


def test_no_more_is_trained_than_the_slow_rank_allows(
    shown: dict[tuple[str, int], float],
) -> None:
    assert shown["throughput/samples_per_second", 8] <= 2 * ROWS / SLEEP_SECONDS


def test_an_error_on_one_rank_keeps_no_rank_waiting(tmp_path: Path) -> None:
    assert launch("slow_rank.py", str(tmp_path), "fail")["steps"] == [8, 8]
