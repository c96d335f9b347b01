"""`Calibration`: whether a classifier is right as often as it is confident."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.classified import Classified, classified
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import is_single_label

BINS = 15


def confidence_totals(found: Classified) -> dict[str, Tensor]:
    """Returns what to add up over batches, per bin of confidence, each of shape (BINS,).

    Bin i holds confidences above i / BINS and up to (i + 1) / BINS.

    Returns:
        "examples" and "correct", int64, and "confidence", the sum of the confidences, floating.
    """
    confidence = torch.where(found.counted, found.confidence, 0.0)
    bins = ((confidence * BINS).ceil() - 1).clamp(0, BINS - 1)
    # Comparisons instead of an index: a sum of floats by index has no fixed order on a GPU.
    inside = bins[:, None] == torch.arange(BINS, device=bins.device)
    inside &= found.counted[:, None]
    return {
        "examples": inside.sum(dim=0),
        "correct": (inside & found.correct[:, None]).sum(dim=0),
        "confidence": (inside * confidence[:, None]).sum(dim=0),
    }


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of a classifier by bins of confidence.

    C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On calibration of modern neural networks", ICML 2017,
    equations 2 and 3.

    Attributes:
        examples: Examples per bin, int64, shape (BINS,).
        accuracy: Share that is predicted correctly, NaN in an empty bin. float64, shape (BINS,).
        confidence: Mean confidence, NaN in an empty bin. float64, shape (BINS,).
    """

    examples: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, totals: Mapping[str, NDArray[Any]]) -> "Reliability":
        """Returns what the totals of `confidence_totals` say."""
        examples = totals["examples"]
        held = np.where(examples > 0, examples, np.nan)
        return cls(examples, totals["correct"] / held, totals["confidence"] / held)

    @property
    def expected_error(self) -> float:
        """The expected calibration error: mean |accuracy - confidence|, weighted by examples."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.examples * gaps).sum() / self.examples.sum())
