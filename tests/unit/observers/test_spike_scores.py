"""Spike scores of a training: which steps they judge, and what a resume keeps."""

import json
from typing import Any

import pytest

from tbtrainer import tags
from tbtrainer.observers.facts import Refusal
from tbtrainer.observers.spike_score import HISTORY
from tbtrainer.observers.spike_scores import SpikeScores
from tests.gradients import Layers, Unreadable
from tests.measured_steps import MeasuredSteps

NAN = float("nan")


def scores_of(steps: MeasuredSteps) -> SpikeScores:
    scores = SpikeScores(steps.measurements)
    scores.run_begins(0, steps.training)
    return scores


def take(steps: MeasuredSteps, count: int) -> None:
    for step in range(count):
        steps.take(loss=2.0 + step % 2, gradient=1.0 + step % 3)


def shown(steps: MeasuredSteps, scores: SpikeScores) -> dict[str, float]:
    steps.log()
    return {scalar.tag: scalar.value for scalar in scores.logging_step(steps.count)}


def test_scores_are_shown_once_the_history_is_full() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY)
    assert shown(steps, scores) == {}
    assert not scores.is_known
    steps.take(loss=100.0, gradient=2.0)
    assert shown(steps, scores) == {
        tags.LOSS_SPIKE_SCORE.name: 1.0,
        tags.GRAD_NORM_SPIKE_SCORE.name: 0.0,
    }
    assert scores.is_known


def test_each_step_is_judged_once() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY + 2)
    steps.measurements.checkpoint_begins(steps.count)
    scores.checkpoint_begins(steps.count)
    shown(steps, scores)
    shown(steps, scores)
    assert scores.state()["loss"]["judged"] == 2


def test_steps_before_a_refused_one_are_judged() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY + 2)
    steps.begin(loss=NAN)
    refusal = Refusal("stop", None, None, False)
    steps.measurements.step_refused(steps.count, refusal)
    scores.step_refused(steps.count, refusal)
    assert scores.state()["loss"]["judged"] == 2


def test_scores_of_a_resumed_training_continue() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY)
    shown(steps, scores)
    state = json.loads(json.dumps(scores.state()))
    resumed = scores_of(steps)
    resumed.load_state(state)
    steps.take(loss=100.0)
    assert shown(steps, resumed)[tags.LOSS_SPIKE_SCORE.name] == 1.0


@pytest.mark.parametrize("state", [None, [], {"loss": None}, {"loss": {"judged": 1}}])
def test_a_nonsense_state_changes_neither_score(state: Any) -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY + 1)
    shown(steps, scores)
    before = scores.state()
    with pytest.raises(ValueError, match="state"):
        scores.load_state(state)
    assert scores.state() == before


def test_a_state_with_one_broken_score_changes_neither() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    before = scores.state()
    good = {"judged": 5, "spikes": 1, "history": [1.0]}
    with pytest.raises(ValueError, match="state"):
        scores.load_state({"loss": good, "grad_norm": None})
    assert scores.state() == before


def test_a_norm_of_some_gradients_is_not_judged() -> None:
    model = Layers()
    steps = MeasuredSteps(model)
    row = steps.training.parameters.rows[0]
    steps.training.parameters.rows[0] = type(row)(
        row.name, row.parameter, row.global_count, Unreadable(True)
    )
    steps.measurements.run_begins(0, steps.training)
    scores = scores_of(steps)
    take(steps, HISTORY + 1)
    assert set(shown(steps, scores)) == {tags.LOSS_SPIKE_SCORE.name}


def test_another_training_begins_without_a_history() -> None:
    steps = MeasuredSteps()
    scores = scores_of(steps)
    take(steps, HISTORY + 1)
    shown(steps, scores)
    scores.run_begins(0, steps.training)
    assert scores.state()["loss"] == {"judged": 0, "spikes": 0, "history": []}
