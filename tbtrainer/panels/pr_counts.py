"""Counts of positives and negatives by their probability, which give precision-recall curves."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.counting import occurrences

# More than 127 thresholds are refused by torch.utils.tensorboard (2.13, `pr_curve_raw`).
MOST_THRESHOLDS = 127
# With more labels there are fewer thresholds, because the counters are within a bound of 1.8 MB.
FEWEST_THRESHOLDS = 31
_MOST_COUNTERS = 225_000
MOST_LABELS = _MOST_COUNTERS // (2 * FEWEST_THRESHOLDS)


def threshold_counts(probabilities: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Returns how many probabilities lie from each threshold up to the next.

    The thresholds are 0, 1 / (thresholds - 1), …, 1.

    Args:
        probabilities: Between 0 and 1 where they are counted, shape (examples, labels).
        positive: Whether the example has the label, bool, of the same shape.
        counted: Whether to count it, bool, of the same shape.

    Returns:
        int64, shape (labels, 2, thresholds): negatives, then positives.
    """
    labels = probabilities.shape[1]
    thresholds = min(MOST_THRESHOLDS, _MOST_COUNTERS // (2 * labels))
    finite = torch.where(counted, probabilities, 0.0)
    passed = (finite * (thresholds - 1)).to(torch.int64)
    label = torch.arange(labels, device=probabilities.device)
    numbers = (label * 2 + positive) * thresholds + passed
    return occurrences(numbers, counted, labels * 2 * thresholds).reshape(labels, 2, thresholds)


def pr_curve(negatives: NDArray[Any], positives: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Returns the curve of one label.

    Precision is 1 where nothing is predicted, as in scikit-learn (1.9, `precision_recall_curve`).

    Args:
        negatives: Examples without the label from each threshold up to the next, (thresholds,).
        positives: Examples with the label; at least one.

    Returns:
        True and false positives and negatives, precision and recall at each threshold, where the
        label is predicted if its probability is at least the threshold.
    """
    tp = np.cumsum(positives[::-1])[::-1].astype(np.float64)
    fp = np.cumsum(negatives[::-1])[::-1].astype(np.float64)
    predicted = tp + fp
    return {
        "true_positives": tp,
        "false_positives": fp,
        "true_negatives": fp[0] - fp,
        "false_negatives": tp[0] - tp,
        "precision": np.where(predicted > 0, tp / np.maximum(predicted, 1), 1.0),
        "recall": tp / tp[0],
    }
