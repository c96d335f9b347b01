"""`TokenConfusion`: which classes a token classifier confuses."""

import numpy as np

from tbtrainer.panels.classified import classified
from tbtrainer.panels.confusion import confusion_height, draw_confusion, names_of_axis, rows_of
from tbtrainer.panels.confusion_counts import MOST_CLASSES, ConfusionCounts, pair_counts
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import picture
from tbtrainer.panels.spans import OUTSIDE
from tbtrainer.panels.token_labels import (
    is_token_classification,
    tokens_as_examples,
    tokens_line,
)
from tbtrainer.records import Image


class TokenConfusion(Panel):
    """Shows how often tokens of each class were predicted as each class.

    The outside class `O` has a column and no row, because most tokens have it and are predicted
    correctly. Those that are predicted as another class lower its precision in `token_classes`. The
    colour of a cell is its share of the tokens of its row. With more than 480 classes the pairs are
    not counted exactly: some counts off the diagonal may be too high, and none is too low.
    """

    name = "token_confusion"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each token has one of several classes."""
        if not is_token_classification(evaluation):
            return False
        assert evaluation.first_batch is not None and evaluation.first_batch.logits is not None
        return evaluation.first_batch.logits.shape[2] <= MOST_CLASSES

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts of the batch."""
        return Kept(totals=pair_counts(classified(tokens_as_examples(batch))))

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns the picture; none if every token that is counted is outside."""
        counts = ConfusionCounts(kept.totals)
        numbers = np.arange(len(counts.labels))
        is_outside = np.array([evaluation.class_name(i) == OUTSIDE for i in numbers.tolist()])
        inside, outside = numbers[~is_outside], numbers[is_outside]
        tokens = int(counts.labels[inside].sum())
        if tokens == 0:
            return []
        rows = counts.most_confused(rows_of(len(inside)), inside)
        columns = np.concatenate([rows, outside])
        title = tokens_line(tokens, kept.seen)
        if len(outside) > 0:
            title += f", without those labelled {OUTSIDE}"
        if len(rows) < len(inside):
            title += f"\n{len(rows)} of {len(inside):,} classes, those with the most mistakes"
        if not counts.is_exact:
            title += "\nnumbers of mistakes are approximate"
        matrix = counts.among(columns)[: len(rows)]
        names = names_of_axis(evaluation, columns.tolist())
        return [
            picture(
                evaluation.tag(self.name),
                lambda figure: draw_confusion(
                    figure, matrix, counts.labels[rows], names[: len(rows)], names, title
                ),
                confusion_height(len(rows), title),
            )
        ]
