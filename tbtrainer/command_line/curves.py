"""One pass over the scalars of a run: what is known of each curve afterwards.

The memory depends on the number of tags and not on the number of records.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# A curve is kept as the means of at least half as many pieces of equal length.
MOST_PIECES = 128


class Curve:
    """What one pass over a curve found. Values that are NaN or infinite are counted apart.

    Attributes:
        count: How many values it has.
        nonfinite: How many of them are NaN or infinite.
        first, last: The first and the last value, in the order of the run.
        first_step, last_step: Their steps.
        first_time, last_time: When they were written, in seconds since 1970.
        total: The sum of the finite values.
        minimum, maximum: Of the finite values; NaN if there are none.
        minimum_step, maximum_step: Where they were reached first; -1 if there are none.
    """

    def __init__(self) -> None:
        self.count = self.nonfinite = 0
        self.first = self.last = self.minimum = self.maximum = float("nan")
        self.first_step = self.last_step = self.minimum_step = self.maximum_step = -1
        self.first_time = self.last_time = float("nan")
        self.total = 0.0
        # Value i belongs to piece i // length.
        self._length = 1
        self._sums = np.zeros(1)
        self._finite_counts = np.zeros(1, np.int64)

    @property
    def mean(self) -> float:
        """The mean of the finite values; NaN if there are none."""
        finite = self.count - self.nonfinite
        return self.total / finite if finite else float("nan")

    def pieces(self) -> list[float]:
        """Returns the curve as the means of at most `MOST_PIECES` pieces.

        Every piece but the last has the same number of values. A piece without a finite value is
        NaN.
        """
        used = -(-self.count // self._length)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: list[float] = (self._sums[:used] / self._finite_counts[:used]).tolist()
        return means

    def add(
        self, step: NDArray[np.int64], wall_time: NDArray[np.float64], value: NDArray[np.float64]
    ) -> None:
        """Adds values that follow those before. All arrays have the shape (values,), not zero."""
        if not self.count:
            self.first, self.first_step = float(value[0]), int(step[0])
            self.first_time = float(wall_time[0])
        self.last, self.last_step = float(value[-1]), int(step[-1])
        self.last_time = float(wall_time[-1])
        finite = np.isfinite(value)
        self._add_to_pieces(value, finite)
        self.count += len(value)
        if not finite.all():
            self.nonfinite += len(value) - int(finite.sum())
            step, value = step[finite], value[finite]
        if len(value):
            self._add_extremes(step, value)
            self.total += float(value.sum())

    def _add_extremes(self, step: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        lowest, highest = int(value.argmin()), int(value.argmax())
        if not self.minimum <= value[lowest]:
            self.minimum, self.minimum_step = float(value[lowest]), int(step[lowest])
        if not self.maximum >= value[highest]:
            self.maximum, self.maximum_step = float(value[highest]), int(step[highest])

    def _add_to_pieces(self, value: NDArray[np.float64], finite: NDArray[np.bool_]) -> None:
        after = self.count + len(value)
        # A run may have many curves of a few values each, so the arrays are only as long as needed.
        self._sums = _lengthened(self._sums, min(-(-after // self._length), MOST_PIECES))
        self._finite_counts = _lengthened(self._finite_counts, len(self._sums))
        while after > self._length * MOST_PIECES:
            self._length *= 2
            self._sums = _merged(self._sums)
            self._finite_counts = _merged(self._finite_counts)
        piece = np.arange(self.count, after) // self._length
        weights = np.where(finite, value, 0.0)
        self._sums += np.bincount(piece, weights, len(self._sums))
        self._finite_counts += np.bincount(piece[finite], minlength=len(self._sums))


class Curves:
    """The curves of a run, by tag, in the order in which they first appear."""

    def __init__(self) -> None:
        self.by_tag: dict[str, Curve] = {}

    def add(
        self,
        names: Sequence[str],
        tag: NDArray[np.int32],
        step: NDArray[np.int64],
        wall_time: NDArray[np.float64],
        value: NDArray[np.float64],
    ) -> None:
        """Adds scalars that follow those before.

        Args:
            names: The tags.
            tag: Index into `names` of each scalar, shape (scalars,).
            step: Of each scalar, likewise.
            wall_time: When it was written, in seconds since 1970, likewise.
            value: Likewise.
        """
        # Stable, so that the scalars of a tag stay in their order.
        order = np.argsort(tag, kind="stable")
        tag, step, wall_time, value = tag[order], step[order], wall_time[order], value[order]
        begins = np.flatnonzero(np.diff(tag, prepend=-1))
        ends = np.flatnonzero(np.diff(tag, append=-1)) + 1
        for begin, end in zip(begins, ends, strict=True):
            name = names[tag[begin]]
            curve = self.by_tag.setdefault(name, Curve())
            curve.add(step[begin:end], wall_time[begin:end], value[begin:end])


def _lengthened(pieces: NDArray, length: int) -> NDArray:
    """Returns at least so many pieces, and twice as many as before if more are needed."""
    if len(pieces) >= length:
        return pieces
    longer = np.zeros(min(max(length, 2 * len(pieces)), MOST_PIECES), pieces.dtype)
    longer[: len(pieces)] = pieces
    return longer


def _merged(pieces: NDArray) -> NDArray:
    """Returns the sums of neighbours, and zeros in the second half."""
    merged = np.zeros_like(pieces)
    merged[: MOST_PIECES // 2] = pieces[::2] + pieces[1::2]
    return merged
