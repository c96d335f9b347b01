"""The card of the best evaluation: what is best, how long ago, and the patience that is left."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainingArguments

from tbtrainer.observers.best_metric import (
    BestMetric,
    compared_metric,
    early_stopping_of,
    patience_left,
)
from tbtrainer.observers.facts import Evaluation
from tbtrainer.records import Scalar, Text

NAN, INF = float("nan"), float("inf")
STATE: dict[str, Any] = {
    "metric": "eval_loss",
    "greater_is_better": False,
    "value": 0.25,
    "step": 4,
    "evaluations_since": 1,
}


class Run:
    """A training with evaluations of given metrics."""

    def __init__(
        self,
        metric: str | None = None,
        greater: bool | None = None,
        early_stopping: EarlyStoppingCallback | None = None,
        step: int = 0,
    ) -> None:
        self.observer = BestMetric(lambda: early_stopping)
        args = SimpleNamespace(metric_for_best_model=metric, greater_is_better=greater)
        training: Any = SimpleNamespace(training_arguments=args)
        self.observer.run_begins(step, training)

    def evaluated(self, step: int, is_part: bool = False, **metrics: Any) -> list[Any]:
        evaluation = Evaluation(metrics, "a" if is_part else None, 1.0, is_part)
        return list(self.observer.evaluation_ended(step, evaluation))

    def card(self, step: int, **metrics: Any) -> dict[str, str]:
        """The rows of the card that an evaluation shows."""
        (record,) = (r for r in self.evaluated(step, **metrics) if isinstance(r, Text))
        rows = [line.strip("| ").split(" | ") for line in record.text.splitlines()[2:]]
        return {row[0]: row[1] for row in rows}


def test_the_loss_is_compared_where_no_metric_is_named() -> None:
    run = Run()
    assert run.evaluated(2, eval_loss=0.5)[-1].tag == "eval/best_loss"
    run.evaluated(4, eval_loss=0.25)
    card = run.card(6, eval_loss=0.75)
    assert (card["value"], card["step"], card["last value"]) == ("0.25", "4", "0.75")
    assert card["better is"] == "lower"


def test_the_curve_has_a_point_where_an_evaluation_is_better() -> None:
    run = Run()
    values = [0.5, 0.75, NAN, 0.25, 0.25]
    found = [run.evaluated(step, eval_loss=value)[0] for step, value in enumerate(values)]
    curve = [(step, r.tag, r.value) for step, r in enumerate(found) if isinstance(r, Scalar)]
    assert curve == [(0, "hparams/best_loss", 0.5), (3, "hparams/best_loss", 0.25)]


def test_a_resumed_training_continues_the_curve() -> None:
    run = Run(step=4)
    run.observer.load_state(STATE)
    assert not any(isinstance(r, Scalar) for r in run.evaluated(6, eval_loss=0.5))
    assert any(isinstance(r, Scalar) for r in run.evaluated(8, eval_loss=0.125))


def test_the_greatest_is_the_best_where_arguments_say_so() -> None:
    run = Run("f1", greater=True)
    assert run.evaluated(2, eval_f1=0.5)[-1].tag == "eval/best_f1"
    run.evaluated(4, eval_f1=0.75)
    card = run.card(6, eval_f1=0.25)
    assert (card["value"], card["step"], card["better is"]) == ("0.75", "4", "higher")


@pytest.mark.parametrize(
    ("name", "compared"),
    [
        (None, ("eval_loss", False)),
        ("loss", ("eval_loss", False)),
        ("eval_a_loss", ("eval_a_loss", False)),
        ("f1", ("eval_f1", True)),
    ],
)
def test_the_direction_is_that_of_the_arguments(
    name: str | None, compared: tuple[str, bool], tmp_path: Any
) -> None:
    args = TrainingArguments(str(tmp_path), metric_for_best_model=name, report_to="none")
    assert compared_metric(args) == compared


def test_the_card_says_how_long_ago_the_best_was() -> None:
    run = Run()
    assert run.card(2, eval_loss=0.5)["how long ago"] == "at this evaluation"
    assert run.card(3, eval_loss=0.75)["how long ago"] == "1 step and 1 evaluation ago"
    assert run.card(1502, eval_loss=0.5)["how long ago"] == "1,500 steps and 2 evaluations ago"
    assert run.card(1600, eval_loss=0.25)["how long ago"] == "at this evaluation"


def test_a_value_that_is_not_finite_is_never_the_best() -> None:
    run = Run("f1", greater=True)
    assert run.evaluated(1, eval_f1=NAN) == run.evaluated(2, eval_f1=INF) == []
    run.evaluated(3, eval_f1=0.5)
    card = run.card(4, eval_f1=NAN)
    assert (card["value"], card["last value"]) == ("0.5", "nan")


@pytest.mark.parametrize("metrics", [{}, {"eval_f1": {"a": 1.0}}, {"eval_f1": True}], ids=str)
def test_an_evaluation_without_the_metric_shows_nothing(metrics: dict[str, Any]) -> None:
    assert Run("f1", greater=True).evaluated(2, **metrics) == []


def test_several_datasets_are_shown_after_the_last() -> None:
    run = Run("eval_a_loss", greater=False)
    assert run.evaluated(2, is_part=True, eval_a_loss=0.5) == []
    assert run.evaluated(2, is_part=True, eval_b_loss=0.25) == []
    *_, record = run.evaluated(2, eval_a_loss=0.5, eval_b_loss=0.25)
    assert record.tag == "eval/best_a_loss"


def test_nothing_is_shown_outside_of_a_training() -> None:
    run = Run()
    run.observer.close()
    assert run.evaluated(2, eval_loss=0.5) == []
    assert run.observer.state() is None


def test_a_second_training_begins_anew() -> None:
    run = Run()
    run.evaluated(2, eval_loss=0.25)
    args = SimpleNamespace(metric_for_best_model=None, greater_is_better=None)
    training: Any = SimpleNamespace(training_arguments=args)
    run.observer.run_begins(0, training)
    assert run.card(2, eval_loss=0.5)["value"] == "0.5"


@pytest.mark.parametrize(
    ("counter", "threshold", "shown"),
    [
        (0, 0.001, "stops after 3 more evaluations without improvement of more than 0.001"),
        (2, 0.0, "stops after 1 more evaluation without improvement"),
        (3, 0.0, "stops now, after 3 evaluations without improvement"),
    ],
)
def test_the_patience_that_is_left_is_shown(counter: int, threshold: float, shown: str) -> None:
    callback = EarlyStoppingCallback(3, threshold)
    callback.early_stopping_patience_counter = counter
    assert patience_left(callback) == shown
    assert Run(early_stopping=callback).card(2, eval_loss=0.5)["early stopping"] == shown


def test_without_early_stopping_there_is_no_patience() -> None:
    assert "early stopping" not in Run().card(2, eval_loss=0.5)


def test_the_callback_is_found_among_those_of_the_trainer() -> None:
    callback = EarlyStoppingCallback()
    handler = SimpleNamespace(callbacks=[object(), callback])
    assert early_stopping_of(SimpleNamespace(callback_handler=handler)) is callback
    handler.callbacks.pop()
    assert early_stopping_of(SimpleNamespace(callback_handler=handler)) is None


def test_a_resumed_training_knows_its_best_evaluation() -> None:
    first = Run()
    first.evaluated(2, eval_loss=0.25)
    first.evaluated(4, eval_loss=0.5)
    resumed = Run(step=4)
    resumed.observer.load_state(json.loads(json.dumps(first.observer.state())))
    card = resumed.card(6, eval_loss=0.5)
    assert (card["value"], card["step"]) == ("0.25", "2")
    assert card["how long ago"] == "4 steps and 2 evaluations ago"


def test_the_state_of_another_metric_is_not_continued() -> None:
    resumed = Run("f1", greater=True, step=4)
    resumed.observer.load_state(STATE)
    assert resumed.card(6, eval_f1=0.1)["value"] == "0.1"


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {**STATE, "metric": 3},
        {**STATE, "value": "0.5"},
        {**STATE, "value": NAN},
        {**STATE, "value": True},
        {**STATE, "step": 5},
        {**STATE, "step": -1},
        {**STATE, "step": 2.0},
        {**STATE, "evaluations_since": 2**60},
        {**STATE, "evaluations_since": True},
    ],
    ids=repr,
)
def test_a_nonsense_state_is_refused(state: Any) -> None:
    resumed = Run(step=4)
    with pytest.raises(ValueError, match="the state of the best metric"):
        resumed.observer.load_state(state)
    assert resumed.card(6, eval_loss=0.5)["value"] == "0.5"
