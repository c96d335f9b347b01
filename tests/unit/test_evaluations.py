"""Which evaluations that end with an error are shown, so that other ranks do not wait."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tbtrainer import evaluations
from tbtrainer.evaluations import ObservedEvaluations


class Trainer:
    """Evaluates as `Trainer` does: some batches, then the metrics, then a callback.

    Args:
        fails: Where it raises an error: `loop`, `batch_metrics`, `metrics` or `callback`.
    """

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.compute_metrics: Callable[..., Any] | None = self.metrics
        self.shown: list[Any] = []
        observers = SimpleNamespace(
            evaluation_begins=lambda step, dataset: self.shown.append("begins"),
            evaluation_ended=lambda step, ended: self.shown.append(dict(ended.metrics)),
        )
        self.evaluations = ObservedEvaluations(self, observers)  # type: ignore[arg-type]

    def fail_in(self, place: str) -> None:
        if self.fails == place:
            raise RuntimeError(place)

    def metrics(self, compute_result: bool = True) -> dict[str, float]:
        self.fail_in("metrics" if compute_result else "batch_metrics")
        return {"eval_f1": 1.0}

    def evaluation_loop(self) -> dict[str, float]:
        self.fail_in("loop")
        if self.compute_metrics is None:
            return {}
        self.compute_metrics(compute_result=False)
        found: dict[str, float] = self.compute_metrics(compute_result=True)
        return found

    def evaluate(self, prefix: str = "eval") -> None:
        with self.evaluations.observed(prefix, 3) as ended:
            metrics = self.evaluation_loop()
            self.fail_in("callback")
            ended(metrics)
            self.fail_in("ended")


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "world_size", lambda: 2)


@pytest.mark.parametrize("place", ["metrics", "callback"])
def test_an_evaluation_failing_after_its_last_batch_is_shown(place: str, two_ranks: None) -> None:
    trainer = Trainer(place)
    with pytest.raises(RuntimeError, match=place):
        trainer.evaluate()
    assert trainer.shown == ["begins", {}]


@pytest.mark.parametrize("place", ["loop", "batch_metrics"])
def test_an_evaluation_failing_before_its_end_is_not_shown(place: str, two_ranks: None) -> None:
    trainer = Trainer()
    trainer.evaluate()
    trainer.fails = place
    with pytest.raises(RuntimeError, match=place):
        trainer.evaluate()
    assert trainer.shown == ["begins", {"eval_f1": 1.0}, "begins"]


def test_an_evaluation_that_has_ended_is_shown_once(two_ranks: None) -> None:
    trainer = Trainer("ended")
    with pytest.raises(RuntimeError):
        trainer.evaluate()
    assert trainer.shown == ["begins", {"eval_f1": 1.0}]


def test_a_callback_failing_without_metrics_is_after_the_last_batch(two_ranks: None) -> None:
    trainer = Trainer("callback")
    trainer.compute_metrics = None
    with pytest.raises(RuntimeError):
        trainer.evaluate()
    assert trainer.shown == ["begins", {}]


def test_one_process_shows_no_evaluation_that_failed() -> None:
    trainer = Trainer("metrics")
    with pytest.raises(RuntimeError):
        trainer.evaluate()
    assert trainer.shown == ["begins"]


def test_the_functions_of_a_trainer_are_its_own_again(two_ranks: None) -> None:
    trainer = Trainer("metrics")
    own = dict(vars(trainer))
    with pytest.raises(RuntimeError):
        trainer.evaluate()
    assert vars(trainer) == own


def test_the_last_of_several_datasets_may_fail(two_ranks: None) -> None:
    trainer = Trainer()
    with (
        pytest.raises(RuntimeError, match="metrics"),
        trainer.evaluations.observed("eval", 3) as ended,
    ):
        trainer.evaluate("eval_first")
        trainer.fails = "metrics"
        trainer.evaluate("eval_second")
        ended({})
    # The one of all datasets is shown as well.
    assert trainer.shown == ["begins", "begins", {"eval_f1": 1.0}, "begins", {}, {}]
