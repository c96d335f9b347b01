"""`Throughput` by itself: MFU against a count by hand, and collectives after errors."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.observers import throughput
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Evaluation
from tbtrainer.observers.step_times import Mark, StepTimes
from tbtrainer.observers.throughput import Throughput
from tbtrainer.observers.throughput_window import RANK_FIGURES
from tbtrainer.sharding import parameter_table
from tests.fake_clock import FakeClock
from tests.tiny import classifier

PEAK = 1e9
BATCH = {
    "input_ids": torch.zeros(2, 4, dtype=torch.int64),
    "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
}


@pytest.fixture
def fake() -> Iterator[FakeClock]:
    with FakeClock().installed() as clock:
        yield clock


class Case:
    """An observer in a training of one rank, with steps of two seconds."""

    def __init__(self, fake: FakeClock, **arguments: Any) -> None:
        model = classifier()
        clock = Clock()
        self.fake = fake
        self.times = StepTimes(clock)
        self.observer = Throughput(self.times, clock)
        self.model = model
        training: Any = SimpleNamespace(
            accelerator=SimpleNamespace(),
            arguments=TensorBoardArguments(**arguments),
            device=torch.device("cpu"),
            is_world_process_zero=True,
            parameters=parameter_table(model, is_world_process_zero=True),
            training_arguments=SimpleNamespace(dataloader_num_workers=0, n_gpu=0),
            unwrapped_model=model,
        )
        self.observer.run_begins(0, training)

    def step(self, number: int) -> None:
        self.times.mark(Mark.DATA_REQUESTED)
        self.observer.data_requested(number)
        self.fake.wait(2.0)
        self.observer.data_received(number, [BATCH])
        for mark in list(Mark)[1:]:
            self.times.mark(mark)

    def logged(self, number: int) -> dict[str, float]:
        records = list(self.observer.logging_step(number))
        return {record.tag: record.value for record in records if hasattr(record, "value")}


def test_utilisation_is_that_of_a_count_by_hand(
    fake: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_peak_of", lambda training: PEAK)
    case = Case(fake)
    case.step(2)
    case.step(3)
    embeddings = case.model.bert.embeddings
    looked_up = sum(
        table.weight.numel()
        for table in (
            embeddings.word_embeddings,
            embeddings.position_embeddings,
            embeddings.token_type_embeddings,
        )
    )
    weights = sum(parameter.numel() for parameter in case.model.parameters()) - looked_up
    config = case.model.config
    attention = 12 * config.num_hidden_layers * config.hidden_size * 2.5  # Tokens per sequence.
    by_hand = 5 / 2.0 * (6 * weights + attention) / PEAK  # Five tokens in two seconds.
    assert case.logged(3)["throughput/mfu"] == pytest.approx(by_hand)


def test_operations_that_are_given_are_used(
    fake: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_peak_of", lambda training: PEAK)
    case = Case(fake, flops_per_token=1e7)
    case.step(2)
    assert case.logged(2)["throughput/mfu"] == pytest.approx(5 / 2.0 * 1e7 / PEAK)


def test_without_a_known_peak_there_is_no_utilisation(fake: FakeClock) -> None:
    case = Case(fake, flops_per_token=1e7)
    case.step(2)
    assert "throughput/mfu" not in case.logged(2)


def test_the_percentile_is_that_of_the_nearest_rank(fake: FakeClock) -> None:
    case = Case(fake)
    for number in range(2, 22):
        fake.wait(0.0)
        case.step(number)
        if number == 21:
            case.times._ended[-1][Mark.STEP_TAKEN] += 5.0
            case.times._ended[-1][Mark.STEP_SHOWN] += 5.0
    shown = case.logged(21)
    assert (shown["throughput/step_seconds"], shown["throughput/step_seconds_p95"]) == (2.0, 2.0)


def test_a_window_without_steps_shows_nothing(fake: FakeClock) -> None:
    assert Case(fake).logged(1) == {}


def test_a_failed_evaluation_stops_the_clock_until_the_next_data(
    fake: FakeClock,
) -> None:
    case = Case(fake)
    case.step(2)
    case.observer.evaluation_begins(2, None)
    fake.wait(50.0)
    case.step(3)
    assert case.logged(3)["throughput/samples_per_second"] == pytest.approx(4 / 4.0)


def test_the_evaluation_of_one_dataset_of_several_has_no_figure(fake: FakeClock) -> None:
    case = Case(fake)
    part = Evaluation({}, "one", 1.0, is_part=True)
    assert list(case.observer.evaluation_ended(1, part)) == []


class Ranks:
    """Two ranks, of which this is the first; keeps what it sends."""

    def __init__(self, other: list[float]) -> None:
        self.sent: list[Any] = []
        self.other = other

    def gathered(self, numbers: Any) -> list[Any]:
        self.sent.append(tuple(numbers))
        return [list(numbers), self.other]


def test_figures_are_those_of_both_ranks(fake: FakeClock) -> None:
    case = Case(fake)
    case.observer._ranks = Ranks([4.0, 15.0, 2.0, 2.0, 6.0, 1.0])  # type: ignore[assignment]
    case.step(2)
    shown = case.logged(2)
    assert shown["throughput/tokens_per_second"] == pytest.approx((5 + 15) / 4.0)
    assert (shown["throughput/slowest_rank"], shown["throughput/rank_spread"]) == (1, 3.0)


def test_a_rank_that_fails_sends_zeros(fake: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(fake)
    ranks = Ranks([0.0] * RANK_FIGURES)
    case.observer._ranks = ranks  # type: ignore[assignment]
    case.step(2)
    monkeypatch.setattr(case.times, "take", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        case.observer.logging_step(2)
    assert ranks.sent == [(0.0,) * RANK_FIGURES]


def test_a_rank_without_a_window_sends_zeros(fake: FakeClock) -> None:
    case = Case(fake)
    ranks = Ranks([0.0] * RANK_FIGURES)
    case.observer._ranks = ranks  # type: ignore[assignment]
    case.observer.logging_step(1)
    assert ranks.sent == [(0.0,) * RANK_FIGURES]
