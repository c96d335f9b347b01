"""The spike score is the share of values far above the 128 before them."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.observers.spike_score import HISTORY, SpikeScore

NAN = float("nan")


def judged_by_numpy(values: np.ndarray) -> tuple[int, int]:
    """Spikes and judged values, by a plain loop over windows."""
    values = values[np.isfinite(values)]
    spikes = judged = 0
    for index in range(HISTORY, len(values)):
        window = values[index - HISTORY : index]
        deviation = window.std(ddof=1)
        if deviation >= 1e-10:
            judged += 1
            spikes += int(values[index] > window.mean() + 6 * deviation)
    return spikes, judged


def scored(values: Sequence[float] | np.ndarray) -> SpikeScore:
    score = SpikeScore()
    score.extend(float(value) for value in values)
    return score


def series(seed: int, length: int = 700) -> np.ndarray:
    """Noise with spikes, NaN and infinities."""
    random = np.random.default_rng(seed)
    values = random.normal(2.0, 0.1, length)
    values[random.integers(0, length, 12)] *= 3
    values[random.integers(0, length, 5)] = np.nan
    values[random.integers(0, length, 2)] = np.inf
    return values


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_that_of_a_loop_in_numpy(seed: int) -> None:
    values = series(seed)
    score = scored(values)
    assert (score.spikes, score.judged) == judged_by_numpy(values)
    assert score.spikes > 0


def test_a_series_longer_than_a_piece_is_judged_whole() -> None:
    values = series(7, 3000)
    score = scored(values)
    assert (score.spikes, score.judged) == judged_by_numpy(values)


def test_a_constant_part_of_a_series_is_not_judged() -> None:
    values = np.concatenate([series(3, 300), np.full(400, 2.0), series(4, 300)])
    score = scored(values)
    assert (score.spikes, score.judged) == judged_by_numpy(values)
    assert score.judged < len(values[np.isfinite(values)]) - HISTORY


@given(seed=st.integers(0, 9), sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_readings_of_any_size_give_the_same_score(seed: int, sizes: list[int]) -> None:
    values = series(seed)
    score, begin = SpikeScore(), 0
    for size in (*sizes, len(values)):
        score.extend(values[begin : begin + size].tolist())
        begin += size
    assert score.state() == scored(values).state()


def test_nothing_is_judged_before_the_history_is_full() -> None:
    score = scored([*range(HISTORY - 1), 1e9])
    assert (score.judged, score.score) == (0, None)


def test_the_step_after_the_history_is_judged() -> None:
    score = scored([*range(HISTORY), 1e9])
    assert (score.spikes, score.judged, score.score) == (1, 1, 1.0)


def test_a_drop_is_no_spike() -> None:
    random = np.random.default_rng(0)
    assert scored([*random.normal(0, 1, 200), -1e6]).spikes == 0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40))
def test_values_that_are_not_finite_change_nothing(values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    assert scored(values).state() == scored(finite).state()


@pytest.mark.parametrize("cut", [0, 1, 127, 128, 250, 699])
def test_a_score_continues_from_json(cut: int) -> None:
    values = series(1)
    second = SpikeScore()
    second.load(json.loads(json.dumps(scored(values[:cut]).state())))
    second.extend(values[cut:].tolist())
    assert second.state() == scored(values).state()


NONSENSE: list[Any] = [
    None,
    [],
    "state",
    {},
    {"judged": 1, "spikes": 2, "history": []},
    {"judged": -1, "spikes": -1, "history": []},
    {"judged": "1", "spikes": 0, "history": []},
    {"judged": 1.0, "spikes": 0, "history": []},
    {"judged": 2**70, "spikes": 0, "history": []},
    {"judged": True, "spikes": False, "history": []},
    {"judged": 1, "spikes": 0},
    {"judged": 1, "spikes": 0, "history": {"0": 1.0}},
    {"judged": 1, "spikes": 0, "history": ["x"]},
    {"judged": 1, "spikes": 0, "history": [True]},
    {"judged": 1, "spikes": 0, "history": [NAN]},
    {"judged": 1, "spikes": 0, "history": [10**400]},
]


@pytest.mark.parametrize("state", NONSENSE)
def test_a_nonsense_state_is_refused(state: Any) -> None:
    score = scored(series(2))
    before = score.state()
    with pytest.raises(ValueError, match="the state of a spike score"):
        score.load(state)
    assert score.state() == before


def test_a_long_history_is_cut() -> None:
    score = SpikeScore()
    score.load({"judged": 0, "spikes": 0, "history": [1.0] * 100_000})
    assert len(score.state()["history"]) == HISTORY
