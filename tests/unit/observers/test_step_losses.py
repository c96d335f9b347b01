"""Losses of steps on one rank, and reduced over several."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tbtrainer.observers import step_losses
from tbtrainer.observers.step_losses import (
    LOSS_KNOWN,
    LOSS_MEAN,
    LOSS_RANK,
    LOSS_SCALE,
    LOSS_SPREAD,
    SKIPPED,
    StepLosses,
)
from tests.gradients import CPU

NAN, INF = float("nan"), float("inf")


def losses_of(steps: int) -> StepLosses:
    return StepLosses(steps, torch.float64, CPU, CPU)


def keep(losses: StepLosses, values: Sequence[float | None]) -> None:
    for place, value in enumerate(values):
        losses.keep(place, None if value is None else torch.tensor(value), None, None, False)


class Ranks:
    """Ranks that reduce one after the other; what they sent is reduced when `meet` is called."""

    def __init__(self, count: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: list[Tensor] = []
        self.maxima: list[Tensor] = []
        self.losses: list[StepLosses] = []
        monkeypatch.setattr(step_losses, "world_size", lambda: count)
        monkeypatch.setattr(step_losses, "reduce_sum", self.sums.append)
        monkeypatch.setattr(step_losses, "reduce_max", self.maxima.append)
        for rank in range(count):
            monkeypatch.setattr(step_losses, "own_rank", lambda rank=rank: rank)
            self.losses.append(losses_of(steps))

    def meet(self) -> None:
        assert len(self.sums) == len(self.maxima) == len(self.losses)
        sums, maxima = torch.stack(self.sums).sum(dim=0), torch.stack(self.maxima).amax(dim=0)
        for values in self.sums:
            values.copy_(sums)
        for values in self.maxima:
            values.copy_(maxima)


def reduced_of(monkeypatch: pytest.MonkeyPatch, *by_rank: Sequence[float | None]) -> Tensor:
    """What rank zero knows after the reduction."""
    steps = len(by_rank[0])
    ranks = Ranks(len(by_rank), steps, monkeypatch)
    for losses, values in zip(ranks.losses, by_rank, strict=True):
        keep(losses, values)
        losses.reduce(steps)
    ranks.meet()
    first, *others = [losses.reduced(steps) for losses in ranks.losses]
    for other in others:
        torch.testing.assert_close(first, other, equal_nan=True)
    return first


def test_one_rank_knows_its_own_losses() -> None:
    losses = losses_of(3)
    keep(losses, [2.0, None, NAN])
    losses.reduce(3)
    found = losses.reduced(3)
    assert found[0, [LOSS_MEAN, LOSS_KNOWN, LOSS_SPREAD, LOSS_RANK]].tolist() == [2.0, 1, 0, -1]
    assert found[1, LOSS_KNOWN] == 0
    assert found[2, LOSS_MEAN].isnan()
    assert found[2, LOSS_RANK] == 0


def test_mean_and_spread_are_those_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reduced_of(monkeypatch, [1.0, -4.0], [2.0, -1.0], [6.0, -1.0])
    assert found[:, LOSS_MEAN].tolist() == [3.0, -2.0]
    assert found[:, LOSS_SPREAD].tolist() == [5.0, 3.0]
    assert found[:, LOSS_KNOWN].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_last_rank_with_a_bad_loss_is_named(
    value: float, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rank = [[value if rank == own else 1.0, 1.0] for own in range(3)]
    found = reduced_of(monkeypatch, *by_rank)
    assert found[:, LOSS_RANK].tolist() == [rank, -1]
    assert found[0, LOSS_MEAN].isnan()
    assert found[1, LOSS_MEAN] == 1.0


def test_a_loss_that_one_rank_lacks_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reduced_of(monkeypatch, [1.0, 1.0], [None, 1.0])
    assert found[:, LOSS_KNOWN].tolist() == [0.0, 1.0]


def test_a_rank_that_fails_takes_part_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    ranks = Ranks(2, 1, monkeypatch)
    for losses in ranks.losses:
        keep(losses, [3.0])
    ranks.losses[0].reduce(1)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(Tensor, "where", no_memory)
        ranks.losses[1].reduce(1)
    ranks.meet()
    found = ranks.losses[0].reduced(1)[0]
    assert found[[LOSS_KNOWN, LOSS_RANK]].tolist() == [0.0, -1.0]


def test_the_scaler_is_known_by_step() -> None:
    losses = losses_of(2)
    losses.keep(0, torch.tensor(1.0), torch.tensor(1024.0), None, True)
    losses.keep(1, torch.tensor(1.0), torch.tensor(512.0), None, False)
    losses.reduce(2)
    found = losses.reduced(2)
    assert found[:, SKIPPED].tolist() == [1.0, 0.0]
    assert found[:, LOSS_SCALE].tolist() == [1024.0, 512.0]


def test_cleared_steps_are_not_known_any_more() -> None:
    losses = losses_of(1)
    losses.keep(0, torch.tensor(1.0), torch.tensor(1024.0), None, True)
    losses.clear(1)
    losses.reduce(1)
    found = losses.reduced(1)[0]
    assert found[[LOSS_KNOWN, SKIPPED, LOSS_SCALE]].tolist() == [0.0, 0.0, 0.0]
