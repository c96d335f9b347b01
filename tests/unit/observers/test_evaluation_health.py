"""Counts of evaluation batches: by dataset, on all ranks, and only where there are labels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tbtrainer import tags
from tbtrainer.isolation import Isolation
from tbtrainer.observers import evaluation_health
from tbtrainer.observers.evaluation_health import EvaluationHealth
from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.health_reports import HealthReports
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.records import JsonLine, Record, Scalar

NAN, INF = float("nan"), float("inf")
TAG = tags.NONFINITE_EVAL_BATCHES


class Evaluations:
    """Evaluates batches with given losses."""

    def __init__(self) -> None:
        reports = HealthReports(StepMeasurements(Isolation("raise")), lambda step: {})
        self.health = EvaluationHealth(reports)

    def begin(self, dataset: str | None = None) -> None:
        self.health.evaluation_begins(3, dataset)

    def predict(self, *losses: float | None) -> None:
        for loss in losses:
            value = None if loss is None else torch.tensor(loss)
            self.health.evaluation_batch(3, EvaluationBatch({}, value, None, None))

    def end(self, dataset: str | None = None) -> list[Record]:
        evaluation = Evaluation({}, dataset, 1.0, dataset is not None)
        return list(self.health.evaluation_ended(3, evaluation))

    def of(self, *losses: float | None, dataset: str | None = None) -> list[Record]:
        """The records of one evaluation."""
        self.begin(dataset)
        self.predict(*losses)
        return self.end(dataset)


def scalars_of(records: list[Record]) -> dict[str, float]:
    return {record.tag: record.value for record in records if isinstance(record, Scalar)}


def lines_of(records: list[Record]) -> list[Any]:
    return [record.values for record in records if isinstance(record, JsonLine)]


def test_a_good_evaluation_has_a_zero_and_no_report() -> None:
    assert Evaluations().of(1.0, 2.0) == [Scalar(TAG.name, 0.0)]


def test_batches_that_are_not_finite_are_counted_and_reported() -> None:
    records = Evaluations().of(1.0, NAN, INF, 2.0)
    assert scalars_of(records) == {TAG.name: 2.0}
    (line,) = lines_of(records)
    assert (line["cause"], line["bad_step"], line["batches"]) == ("evaluation", 3, 2)
    assert (line["dataset"], line["applied"]) == (None, False)


def test_each_dataset_has_its_own_tag_and_report() -> None:
    evaluations = Evaluations()
    evaluations.begin()
    books = evaluations.of(NAN, dataset="books")
    films = evaluations.of(1.0, NAN, dataset="films")
    of = tags.NONFINITE_EVAL_BATCHES_OF.of
    assert scalars_of(books) == {of("books"): 1.0}
    assert scalars_of(films) == {of("films"): 1.0}
    assert [line["dataset"] for line in lines_of(books + films)] == ["books", "films"]
    # The evaluation of the whole dictionary has no batches of its own.
    assert evaluations.end() == []


def test_a_second_evaluation_is_counted_and_not_reported_again() -> None:
    evaluations = Evaluations()
    evaluations.of(NAN)
    records = evaluations.of(NAN)
    assert scalars_of(records) == {TAG.name: 1.0}
    assert lines_of(records) == []


def test_a_prediction_between_evaluations_does_not_count() -> None:
    evaluations = Evaluations()
    evaluations.of(1.0)
    evaluations.predict(NAN, NAN)
    assert scalars_of(evaluations.of(1.0)) == {TAG.name: 0.0}


def test_without_labels_there_is_no_count() -> None:
    assert Evaluations().of(None, None) == []


def test_a_batch_with_several_losses_counts_once() -> None:
    evaluations = Evaluations()
    evaluations.begin()
    losses = torch.tensor([1.0, NAN, NAN])
    evaluations.health.evaluation_batch(3, EvaluationBatch({}, losses, None, None))
    assert scalars_of(evaluations.end()) == {TAG.name: 1.0}


def test_batches_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> Any:
        raise AssertionError("the host waits")

    evaluations = Evaluations()
    evaluations.begin()
    with monkeypatch.context() as patch:
        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
            patch.setattr(Tensor, name, wait)
        evaluations.predict(1.0, NAN, 1.0)
    assert scalars_of(evaluations.end()) == {TAG.name: 1.0}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What this rank sends; the other rank has seen five batches, one of them bad."""
    sent: list[list[int]] = []

    def reduce(values: Tensor) -> None:
        sent.append(values.tolist())
        values.add_(torch.tensor([5, 1]))

    monkeypatch.setattr(evaluation_health, "world_size", lambda: 2)
    monkeypatch.setattr(evaluation_health, "collective_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(evaluation_health, "reduce_sum", reduce)
    return sent


def test_batches_of_all_ranks_are_counted(sent: list[list[int]]) -> None:
    assert scalars_of(Evaluations().of(1.0, NAN)) == {TAG.name: 2.0}
    assert sent == [[2, 1]]


def test_a_rank_without_batches_reaches_the_collective(sent: list[list[int]]) -> None:
    assert scalars_of(Evaluations().of()) == {TAG.name: 1.0}
    assert sent == [[0, 0]]


def test_a_rank_that_cannot_read_reaches_the_collective(
    sent: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensor: Tensor) -> Any:
        raise RuntimeError("device error")

    evaluations = Evaluations()
    evaluations.begin()
    evaluations.predict(NAN)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="device error"):
        patch.setattr(Tensor, "item", fail)
        evaluations.end()
    assert sent == [[0, 0]]
