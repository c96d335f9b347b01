"""`LabelF1`: precision, recall and F1 of each label of a multi-label classification."""

import numpy as np

from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.multi_labelled import multi_labelled
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.scores import label_scores, mean_without_nan, score_row
from tbtrainer.panels.tasks import class_labels, is_multi_label
from tbtrainer.records import Text

MOST_ROWS = 30
# Three counters per label, within the bound of a panel's totals.
MOST_LABELS = 80_000
_HEADER = ("label", "precision", "recall", "F1", "examples with it")


class LabelF1(Panel):
    """Shows a table of precision, recall, F1 and support per label, the worst F1 first.

    A label is predicted if its probability is above 0.5. A score that is 0 / 0 is shown as a dash
    and left out of the macro average, as scikit-learn does with `zero_division=nan`.
    """

    name = "label_f1"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is a multi-label classification."""
        if not is_multi_label(evaluation):
            return False
        assert evaluation.first_batch is not None
        return int(evaluation.first_batch.labels.shape[1]) <= MOST_LABELS

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts of the batch."""
        found = multi_labelled(batch)
        has_label = found.counted & found.positive
        predicted = found.counted & (found.probabilities > 0.5)
        return Kept(
            totals={
                "tp": (has_label & predicted).sum(dim=0),
                "predicted": predicted.sum(dim=0),
                "support": has_label.sum(dim=0),
                "examples": found.counted.any(dim=1).sum(),
                "odd": found.odd,
            }
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with the table; none if labels are not 0 and 1, or all are unknown."""
        counted = int(kept.totals["examples"])
        if int(kept.totals["odd"]) > 0 or counted == 0:
            return []
        tp, predicted, support = (kept.totals[name] for name in ("tp", "predicted", "support"))
        scores = label_scores(tp, predicted, support)
        micro = label_scores(*(np.atleast_1d(count.sum()) for count in (tp, predicted, support)))
        total = int(support.sum())
        worst = np.argsort(scores[:, 2], kind="stable")[:MOST_ROWS]  # NaN is last.
        names = class_labels(evaluation, worst.tolist())
        rows = [
            score_row("**macro average**", mean_without_nan(scores), total),
            score_row("**micro average**", micro[0], total),
            *(
                score_row(cell(n, 40), scores[i], support[i])
                for n, i in zip(names, worst, strict=True)
            ),
        ]
        which = f"The worst {MOST_ROWS} of {len(tp)}" if len(tp) > MOST_ROWS else f"{len(tp)}"
        title = f"{which} labels at the threshold 0.5, {examples_line(counted, kept.seen)}:"
        return [Text(evaluation.tag(self.name), f"{title}\n\n{table(_HEADER, rows)}")]
