"""Counts the scalars of a run whose step their tag has already had, with another value."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_BEFORE_ALL = np.iinfo(np.int64).min


@dataclass
class StepRepeats:
    """Counts scalars, tag by tag, whose step is not beyond the steps before.

    A scalar that is equal to the one before it is not counted: `Trainer` logs the epoch with the
    training loss and again with an evaluation.

    Attributes:
        repeated: Scalars of the step that is the largest of their tag so far. int64, shape (tags,).
        backward: Scalars of an earlier step than that. int64, shape (tags,).
        first_repeated: The first such step of a tag, of either kind; only valid where one of the
            counts is not 0. int64, shape (tags,).
    """

    repeated: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    backward: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first_repeated: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _largest: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _latest_step: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _latest: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(
        self, tag: NDArray[np.int32], step: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Adds scalars that follow those before. All arrays have the shape (scalars,)."""
        if not len(tag):
            return
        self._grow(int(tag.max()) + 1)
        # Stable, so that the scalars of a tag stay in their order.
        order = np.argsort(tag, kind="stable")
        tag, step, value = tag[order], step[order], value[order]
        is_first = np.diff(tag, prepend=-1) != 0
        before = np.where(is_first, self._largest[tag], np.roll(step, 1))
        ends = np.flatnonzero(np.diff(tag, append=-1))
        if not (step > before).all():
            step_before = np.where(is_first, self._latest_step[tag], np.roll(step, 1))
            value_before = np.where(is_first, self._latest[tag], np.roll(value, 1))
            is_new = (step != step_before) | (value != value_before)
            for begin, end in zip(np.flatnonzero(is_first), ends + 1, strict=True):
                self._add_to(int(tag[begin]), step[begin:end], is_new[begin:end])
        self._largest[tag[ends]] = np.maximum(
            self._largest[tag[ends]], np.maximum.reduceat(step, np.flatnonzero(is_first))
        )
        self._latest_step[tag[ends]], self._latest[tag[ends]] = step[ends], value[ends]

    def _add_to(self, tag: int, step: NDArray[np.int64], is_new: NDArray[np.bool_]) -> None:
        largest = np.maximum.accumulate(np.concatenate([self._largest[tag : tag + 1], step]))
        same, less = is_new & (step == largest[:-1]), step < largest[:-1]
        found = np.flatnonzero(same | less)
        if len(found) and not self.repeated[tag] + self.backward[tag]:
            self.first_repeated[tag] = step[found[0]]
        self.repeated[tag] += same.sum()
        self.backward[tag] += less.sum()

    def _grow(self, tags: int) -> None:
        more = max(tags - len(self._largest), 0)
        self._largest = np.concatenate([self._largest, np.full(more, _BEFORE_ALL)])
        self._latest_step = np.concatenate([self._latest_step, np.full(more, _BEFORE_ALL)])
        self._latest = np.concatenate([self._latest, np.full(more, np.nan)])
        zeros = np.zeros(more, np.int64)
        self.repeated = np.concatenate([self.repeated, zeros])
        self.backward = np.concatenate([self.backward, zeros])
        self.first_repeated = np.concatenate([self.first_repeated, zeros])
