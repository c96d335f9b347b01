"""Counts of the pairs of label and prediction, in bounded memory for any number of classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.classified import Classified
from tbtrainer.panels.counting import occurrences

# Up to this many classes every pair of classes has a counter, 1.8 MB.
MOST_EXACT_CLASSES = 480
# Up to this many there are counters per class, and a sketch of the pairs. 1.8 MB.
MOST_CLASSES = 40_000
# A Count-Min sketch: a pair has one counter in each row, which it shares with others. Every counter
# is at least the pair's count, so the smallest is nearest to it. With 10,000 mistakes, a pair of
# classes is counted too high with a probability of about 2 % at most.
# G. Cormode, S. Muthukrishnan, "An improved data stream summary", Journal of Algorithms 55, 2005.
_COUNTERS = 34_000
# The rows' hash functions are (factor * pair + offset) mod prime mod counters.
# J. Carter, M. Wegman, "Universal classes of hash functions", 1979.
_PRIME = 2**31 - 1
_FACTORS = (1_103_515_245, 48_271, 742_938_285)
_OFFSETS = (12_345, 1_013_904_223, 629_268_437)


def pair_counts(found: Classified) -> dict[str, Tensor]:
    """Returns what to add up over batches: int64, by names that `ConfusionCounts` knows."""
    classes, counted = found.classes, found.counted
    pairs = found.labels * classes + found.predictions
    if classes <= MOST_EXACT_CLASSES:
        return {"pairs": occurrences(pairs, counted, classes**2)}
    wrong = found.wrong
    rows = [occurrences(_hashed(pairs, row), wrong, _COUNTERS) for row in range(len(_FACTORS))]
    return {
        "labels": occurrences(found.labels, counted, classes),
        "predictions": occurrences(found.predictions, counted, classes),
        "correct": occurrences(found.labels, found.correct, classes),
        "sketch": torch.stack(rows),
    }


class ConfusionCounts:
    """The confusion matrix of an evaluation, or of classes that are chosen from it.

    Args:
        totals: What `pair_counts` returned, added up over batches.

    Attributes:
        labels: Examples that have each class, int64, shape (classes,).
        correct: Those of them that were predicted so, int64, shape (classes,).
        mistakes: Examples that have the class and were predicted as another, or the other way
            round, int64, shape (classes,).
    """

    def __init__(self, totals: Mapping[str, NDArray[Any]]) -> None:
        self._totals = totals
        if "pairs" in totals:
            classes = round(len(totals["pairs"]) ** 0.5)
            matrix = totals["pairs"].reshape(classes, classes)
            self.labels, predictions = matrix.sum(axis=1), matrix.sum(axis=0)
            self.correct = matrix.diagonal()
        else:
            self.labels, predictions = totals["labels"], totals["predictions"]
            self.correct = totals["correct"]
        self.mistakes = self.labels + predictions - 2 * self.correct

    @property
    def is_exact(self) -> bool:
        """Whether `among` returns exact counts. Otherwise some may be too high."""
        return "pairs" in self._totals

    def among(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how often chosen classes, the rows, were predicted as chosen classes."""
        pairs = chosen[:, None] * len(self.labels) + chosen
        if self.is_exact:
            return np.asarray(self._totals["pairs"][pairs])
        rows = [sketch[_hashed(pairs, row)] for row, sketch in enumerate(self._totals["sketch"])]
        counts = np.minimum.reduce(rows)
        np.fill_diagonal(counts, self.correct[chosen])
        return np.asarray(counts)

    def most_confused(
        self, number: int, among: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Returns the classes with the most mistakes, in the order of their numbers.

        Args:
            number: How many.
            among: The classes to choose from; `None` for all.
        """
        classes = np.arange(len(self.mistakes)) if among is None else among
        ranked = np.argsort(-self.mistakes[classes], kind="stable")
        return np.sort(classes[ranked[:number]])


def _hashed(pairs: Any, row: int) -> Any:
    """Returns the counter of each pair in a row of the sketch, for a tensor or an array."""
    # Pairs are below 2**31, so that nothing overflows.
    return (pairs * _FACTORS[row] + _OFFSETS[row]) % _PRIME % _COUNTERS
