"""`Calibration`: the accuracy of a classifier by its confidence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.classified import Classified, classified
from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import BACKGROUND, INK, picture, write_title
from tbtrainer.panels.plots import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    legend_above,
    plain,
    show_line,
)
from tbtrainer.panels.tasks import is_single_label
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15


class Calibration(Panel):
    """Shows how often predictions of each confidence are correct: a reliability diagram.

    All examples are counted, in 15 bins of the highest probability. The title has the expected
    calibration error; below the diagram are the examples per bin.
    """

    name = "calibration"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each example has one of several classes."""
        return is_single_label(evaluation)

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts and sums of the batch."""
        return Kept(totals=confidence_totals(classified(batch)))

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns the picture; none if no example is counted."""
        found = Reliability.of(kept.totals)
        examples = int(found.examples.sum())
        if examples == 0:
            return []
        line = examples_line(examples, kept.seen)
        title = f"Expected calibration error {found.expected_error:.3f}, {line}"

        def draw(figure: "Figure") -> None:
            write_title(figure, title)
            _draw_reliability(figure, found)

        return [picture(evaluation.tag(self.name), draw)]


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
        """Returns it from the totals of `confidence_totals`."""
        examples = totals["examples"]
        held = np.where(examples > 0, examples, np.nan)
        return cls(examples, totals["correct"] / held, totals["confidence"] / held)

    @property
    def expected_error(self) -> float:
        """The expected calibration error: mean |accuracy - confidence|, weighted by examples."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.examples * gaps).sum() / self.examples.sum())


def _draw_reliability(figure: "Figure", found: Reliability) -> None:
    from matplotlib.ticker import MaxNLocator

    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.set(xlim=(0, 1), ylim=(0, 1))
    below.set(ylim=(0, 1.05 * found.examples.max()))
    held = found.examples > 0
    accuracy, confidence = found.accuracy[held], found.confidence[held]
    middle = ((np.arange(BINS) + 0.5) / BINS)[held]
    both = np.minimum(accuracy, confidence)
    bar = {"width": 1 / BINS, "edgecolor": BACKGROUND, "linewidth": 0.4}
    above.bar(middle, both, color=BLUE, **bar, label="accuracy")
    for gap, bottom, color, label in (
        (confidence - both, accuracy, ORANGE, "too confident"),
        (accuracy - both, confidence, GREEN, "not confident enough"),
    ):
        above.bar(middle, gap, bottom=bottom, color=color, **bar, label=label)
    show_line(above, (0, 1), (0, 1), INK, linestyle=DASHES)
    legend_above(above)
    below.bar(middle, found.examples[held], color=GREY, **bar)
    plain(above, upward="accuracy")
    above.tick_params(labelbottom=False)
    plain(below, "confidence", "examples")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
