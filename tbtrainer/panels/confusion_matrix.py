"""`ConfusionMatrix`: which classes a classifier confuses."""

from typing import TYPE_CHECKING

from tbtrainer.panels.classified import classified
from tbtrainer.panels.confusion import confusion_height, draw_confusion, names_of_axis, rows_of
from tbtrainer.panels.confusion_counts import MOST_CLASSES, ConfusionCounts, pair_counts
from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import picture
from tbtrainer.panels.tasks import is_single_label
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ConfusionMatrix(Panel):
    """Shows how often examples of each class were predicted as each class.

    All examples are counted. The colour of a cell is its share of the examples of its row. Up to 10
    classes have numbers. With more than 50 classes, the 30 with the most mistakes are shown. With
    more than 480 classes the pairs are not counted exactly: some counts off the diagonal may be too
    high, and none is too low. With more than 40,000 classes the panel does not apply.
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
        shown = counts.most_confused(rows_of(classes))
        matrix = counts.among(shown)
        names = names_of_axis(evaluation, shown.tolist())
        accuracy = counts.correct.sum() / examples
        title = f"Accuracy {accuracy:.3f}, {examples_line(examples, kept.seen)}"
        if len(shown) < classes:
            title += f"\n{len(shown)} of {classes:,} classes, those with the most mistakes"
        if not counts.is_exact:
            title += "\nnumbers of mistakes are approximate"

        def draw(figure: "Figure") -> None:
            draw_confusion(figure, matrix, counts.labels[shown], names, names, title)

        return [picture(evaluation.tag(self.name), draw, confusion_height(len(shown), title))]
