"""`ConfusionMatrix`: which classes a classifier takes for which."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.classified import classified
from tbtrainer.panels.confusion_counts import MOST_CLASSES, ConfusionCounts, pair_counts
from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import WIDTH_INCHES, picture, shortened
from tbtrainer.panels.tasks import class_labels, is_single_label
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SHOWN = 50
# Of more classes so many are shown: those with the most mistakes.
SHOWN_OF_MANY = 30
MOST_WITH_NUMBERS = 10


class ConfusionMatrix(Panel):
    """Shows how often examples of each class were predicted as each class.

    All examples are counted. The colour of a cell is its share of the examples of its row. Up to 10
    classes have numbers, of more than 50 the 30 with the most mistakes are shown. Of more than 480
    classes the pairs are not counted exactly: some counts off the diagonal may be too high, never
    too low. With more than 40,000 classes the panel does not apply.
    """

    name = "confusion_matrix"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each example has one of several classes."""
        if not is_single_label(evaluation):
            return False
        assert evaluation.first_batch is not None and evaluation.first_batch.logits is not None
        return evaluation.first_batch.logits.shape[1] <= MOST_CLASSES

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts of the batch."""
        return Kept(totals=pair_counts(classified(batch)))

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns the picture; none if no example is counted."""
        counts = ConfusionCounts(kept.totals)
        examples, classes = int(counts.labels.sum()), len(counts.labels)
        if examples == 0:
            return []
        shown = counts.most_confused(classes if classes <= MOST_SHOWN else SHOWN_OF_MANY)
        matrix = counts.among(shown)
        names = class_labels(evaluation, shown.tolist())
        accuracy = counts.correct.sum() / examples
        title = f"Accuracy {accuracy:.3f}, {examples_line(examples, kept.seen)}"
        if len(shown) < classes:
            title += f"\n{len(shown)} of {classes:,} classes, those with the most mistakes"
        if not counts.is_exact:
            title += "\nnumbers of mistakes are approximate"

        def draw(figure: "Figure") -> None:
            figure.suptitle(title, fontsize=7.5)
            _draw_matrix(figure.add_subplot(), matrix, counts.labels[shown], names)

        # A line of text per class, and what is above and below.
        height = 1.1 + 0.12 * len(title.splitlines()) + 0.09 * len(shown)
        return [picture(evaluation.tag(self.name), draw, max(WIDTH_INCHES, height))]


def _draw_matrix(
    axes: "Axes", matrix: NDArray[np.int64], totals: NDArray[np.int64], names: list[str]
) -> None:
    classes = len(matrix)
    shares = matrix / np.maximum(totals, 1)[:, None]
    has_numbers = classes <= MOST_WITH_NUMBERS
    # Where no numbers tell small shares apart, the root makes them visible.
    shade = shares if has_numbers else np.sqrt(shares)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(classes), [shortened(name, 16) for name in names], fontsize=6)
    # Columns are narrower than rows are high, and their names stand upright if they are long.
    every = 1 if classes <= 25 else 2
    columns = [shortened(name, 12) for name in names[::every]]
    rotation = 0 if classes * max(map(len, columns)) <= 50 else 90
    axes.set_xticks(range(0, classes, every), columns, fontsize=6, rotation=rotation)
    axes.set_ylabel("label", fontsize=7)
    axes.set_xlabel("prediction", fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if has_numbers:
        _write_numbers(axes, matrix, shares)


def _write_numbers(axes: "Axes", matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    few = len(matrix) <= 4
    for (row, column), count in np.ndenumerate(matrix):
        if count > 0:
            number = f"{count:,}\n{shares[row, column]:.0%}" if few else compact(int(count))
            axes.text(
                column,
                row,
                number,
                ha="center",
                va="center",
                fontsize=7.5 if few else 6.0,
                color="white" if shares[row, column] > 0.6 else "black",
            )


def compact(count: int) -> str:
    """Returns a count in at most four characters.

    Example:
        >>> [compact(n) for n in (999, 1234, 45678, 1234567)]
        ['999', '1.2k', '46k', '1.2M']
    """
    value = float(count)
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"
