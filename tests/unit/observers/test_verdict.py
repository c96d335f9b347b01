"""The verdict is given when it changes, with its evidence, and not otherwise."""

from dataclasses import replace

import pytest

from tbtrainer.observers.step_times import StepSeconds
from tbtrainer.observers.throughput_window import Phases, RankFigures, ThroughputWindow
from tbtrainer.observers.verdict import Verdict
from tbtrainer.sharding.ranks import ModelParallelSizes


def window(
    data: float = 0.05,
    telemetry: float = 0.0,
    logging: float = 0.0,
    own: tuple[float, ...] = (0.4,),
    steps: int = 20,
) -> ThroughputWindow:
    """Steps of one second, of which `data` is the wait for data."""
    seconds = StepSeconds(
        data=data, own=own[0], forward_backward=0.9 - data, optimizer=0.1, telemetry=0.0
    )
    total = steps * (1.0 + telemetry + logging)
    return ThroughputWindow(
        steps=[seconds] * steps,
        phases=Phases.of([seconds] * steps, total, steps * telemetry),
        ranks=[RankFigures(steps, own_seconds=each, data_seconds=0.1) for each in own],
        sizes=ModelParallelSizes(),
    )


def test_a_training_that_waits_for_nothing_has_no_verdict() -> None:
    assert Verdict(0).changed(window()) is None


@pytest.mark.parametrize(
    "sick, part",
    [
        (window(data=0.38), "Waiting for data 38 % of the time"),
        (window(data=0.38), "`dataloader_num_workers` (now 2)"),
        (window(telemetry=0.25), "tbtrainer takes 20 % of the time"),
        (window(logging=0.25), "Logging and callbacks take 20 % of the time"),
        (window(own=(0.3, 0.3, 0.3, 0.42)), "Rank 3 needs 1.4 times as long as the median rank"),
        (window(own=(0.3, 0.3, 0.3, 0.42)), "0.42 s against 0.3 s"),
    ],
)
def test_the_verdict_has_the_evidence(sick: ThroughputWindow, part: str) -> None:
    assert part in (Verdict(2).changed(sick) or "")


def test_two_causes_are_one_line() -> None:
    found = Verdict(0).changed(window(data=0.38, own=(0.3, 0.9))) or ""
    assert ("Waiting for data" in found, "Rank 1" in found, "\n" in found) == (True, True, False)


def test_a_verdict_is_given_once() -> None:
    verdict = Verdict(0)
    verdict.changed(window(data=0.38))
    assert verdict.changed(window(data=0.40)) is None


def test_a_figure_that_changes_gives_a_new_verdict() -> None:
    verdict = Verdict(0)
    verdict.changed(window(data=0.38))
    assert "80 %" in (verdict.changed(window(data=0.80)) or "")


def test_the_end_of_a_cause_is_reported() -> None:
    verdict = Verdict(0)
    verdict.changed(window(data=0.38))
    assert verdict.changed(window()) == "What was reported before no longer holds."


def test_a_cause_near_its_threshold_does_not_come_and_go() -> None:
    verdict = Verdict(0)
    verdict.changed(window(data=0.16))
    assert [verdict.changed(window(data=data)) for data in (0.14, 0.16, 0.13)] == [None] * 3


def test_short_windows_are_judged_together() -> None:
    verdict = Verdict(0)
    found = [verdict.changed(window(data=0.38, steps=1)) for _ in range(12)]
    assert [given is not None for given in found] == [False] * 9 + [True] + [False] * 2


def test_a_rank_that_is_slightly_slower_is_no_cause() -> None:
    assert Verdict(0).changed(window(own=(0.01, 0.04))) is None


def test_ranks_whose_own_time_is_unknown_are_no_cause() -> None:
    assert Verdict(0).changed(window(own=(0.0, 0.9))) is None


def test_one_rank_has_no_slowest() -> None:
    alone = window(own=(0.4,))
    assert (alone.slowest_rank, alone.rank_spread) == (None, None)


def test_the_slower_of_two_ranks_is_compared_with_the_other() -> None:
    two = window(own=(0.9, 0.3))
    assert (two.slowest_rank, two.rank_spread) == (0, pytest.approx(3.0))


def test_tokens_of_a_model_parallel_group_count_once() -> None:
    ranks = [RankFigures(2.0, tokens=12.0, sequences=3.0, samples=3.0)] * 4
    shared = replace(window(), ranks=ranks, sizes=ModelParallelSizes(tensor=2))
    assert (shared.tokens, shared.samples, shared.sequence_length) == (24.0, 6.0, 4.0)
