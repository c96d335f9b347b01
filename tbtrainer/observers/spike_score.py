"""How often a series of numbers jumps: the share of steps far above the steps before them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Steps that a value is compared with. As many as OLMo-core's `stability_monitor.py` takes, whose
# measure is the share for loss and gradient norm together.
HISTORY = 128
_DEVIATIONS = 6.0
# With a smaller deviation of the history a step is not judged: a constant series has no scale.
_LEAST_DEVIATION = 1e-10
# Values that are judged together, which bounds the memory.
_AT_A_TIME = 1024


class SpikeScore:
    """Counts the spikes of a series.

    A value is a spike if it exceeds the mean of the `HISTORY` values before it by more than six of
    their standard deviations (of the sample, with n - 1). It is judged only when that many are
    known. Values that are not finite are not judged and are not in the history.

    Attributes:
        judged: Number of values that were judged.
        spikes: Number of spikes among them.

    Example:
        >>> score = SpikeScore()
        >>> score.extend([step % 2 for step in range(200)])
        >>> score.extend([100.0])
        >>> score.spikes, score.judged
        (1, 73)
    """

    def __init__(self) -> None:
        self.judged = 0
        self.spikes = 0
        self._history: list[float] = []

    def extend(self, values: Iterable[float]) -> None:
        """Judges the next values of the series, and adds them to the history."""
        series = np.array([*self._history, *filter(math.isfinite, values)], dtype=np.float64)
        for begin in range(0, len(series) - HISTORY, _AT_A_TIME):
            self._judge(series[begin : begin + HISTORY + _AT_A_TIME])
        self._history = series[-HISTORY:].tolist()

    def _judge(self, series: np.ndarray) -> None:
        """Judges all but the first `HISTORY` values of a series of finite numbers."""
        before = sliding_window_view(series, HISTORY)[:-1]
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = before.mean(axis=1), before.std(axis=1, ddof=1)
            is_judged = deviation >= _LEAST_DEVIATION
            is_spike = is_judged & (series[HISTORY:] > mean + _DEVIATIONS * deviation)
        self.judged += int(is_judged.sum())
        self.spikes += int(is_spike.sum())

    @property
    def score(self) -> float | None:
        """The share of spikes among the values judged, 0 to 1; `None` if none was judged."""
        return self.spikes / self.judged if self.judged else None

    def state(self) -> dict[str, Any]:
        """Returns what a resumed training needs to continue, for a JSON file."""
        return {"judged": self.judged, "spikes": self.spikes, "history": self._history}

    def load(self, state: Any) -> None:
        """Continues from a state.

        Raises:
            ValueError: It is not what `state` returns. A checkpoint may hold anything.
        """
        if not isinstance(state, Mapping):
            raise ValueError("the state of a spike score is not an object")
        judged: Any = state.get("judged")
        spikes: Any = state.get("spikes")
        history: Any = state.get("history")
        if not (_is_count(judged) and _is_count(spikes) and spikes <= judged):
            raise ValueError("the state of a spike score has no valid counts")
        if not isinstance(history, list) or not all(map(_is_finite_number, history)):
            raise ValueError("the state of a spike score has no valid history")
        self.judged, self.spikes = judged, spikes
        self._history = [float(value) for value in history[-HISTORY:]]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_finite_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 and math.isfinite(value)
