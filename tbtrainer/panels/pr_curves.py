"""`PrCurves`: precision and recall of each class at every threshold of its probability."""

import numpy as np
import torch
from torch import Tensor

from tbtrainer.panels.classified import classified
from tbtrainer.panels.counting import occurrences
from tbtrainer.panels.multi_labelled import multi_labelled
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import class_labels, is_multi_label, is_single_label
from tbtrainer.records import PrCurve

MOST_CURVES = 20
# torch.utils.tensorboard writes no more (torch 2.13, `pr_curve_raw`).
MOST_THRESHOLDS = 127
FEWEST_THRESHOLDS = 31
# Of all classes together, within the bound of a panel's totals.
MOST_COUNTERS = 225_000
MOST_CLASSES = MOST_COUNTERS // (2 * FEWEST_THRESHOLDS)


class PrCurves(Panel):
    """Shows the precision-recall curve of each class, or of each label of a multi-label model.

    All examples are counted. With two classes there is one curve, for class 1. With more than 20
    classes or labels there are curves for the 20 that most examples have. They are the same at each
    evaluation of the same data. There are 127 thresholds up to 885 classes, and fewer above. With
    more than 3,629 classes the panel does not apply.
    """

    name = "pr_curves"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is a classification."""
        if not (is_single_label(evaluation) or is_multi_label(evaluation)):
            return False
        assert evaluation.first_batch is not None and evaluation.first_batch.logits is not None
        return evaluation.first_batch.logits.shape[1] <= MOST_CLASSES

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the counts of the batch."""
        assert batch.logits is not None
        if batch.labels.shape == batch.logits.shape:
            many = multi_labelled(batch)
            counts = score_counts(many.probabilities, many.positive, many.counted)
            return Kept(totals={"labels": counts, "odd": many.odd})
        one = classified(batch)
        positive = one.labels[:, None] == torch.arange(one.classes, device=one.labels.device)
        counted = one.counted[:, None].expand_as(positive)
        return Kept(totals={"classes": score_counts(one.probabilities, positive, counted)})

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[PrCurve]:
        """Returns the curves of classes that any example has; none if labels are not 0 and 1."""
        if kept.totals.get("odd", 0) > 0:
            return []
        is_binary = "classes" in kept.totals and len(kept.totals["classes"]) == 2
        counts = kept.totals["classes" if "classes" in kept.totals else "labels"]
        examples = counts[:, 1].sum(axis=1)
        shown = [1] if is_binary else np.argsort(-examples, kind="stable")[:MOST_CURVES].tolist()
        return [
            PrCurve.from_counts(evaluation.tag(f"pr_curve/{name}"), counts[i, 1], counts[i, 0])
            for i, name in zip(shown, class_labels(evaluation, shown), strict=True)
            if examples[i] > 0
        ]


def score_counts(probabilities: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Returns how many probabilities lie from each threshold up to the next.

    The thresholds are 0, 1 / (thresholds - 1), …, 1.

    Args:
        probabilities: Between 0 and 1 where they are counted, shape (examples, classes).
        positive: Whether the example has the class, bool, of the same shape.
        counted: Whether to count it, bool, of the same shape.

    Returns:
        int64, shape (classes, 2, thresholds): other examples, then those that have the class.
    """
    classes = probabilities.shape[1]
    thresholds = min(MOST_THRESHOLDS, MOST_COUNTERS // (2 * classes))
    finite = torch.where(counted, probabilities, 0.0)
    passed = (finite * (thresholds - 1)).to(torch.int64).clamp(max=thresholds - 1)
    group = torch.arange(classes, device=probabilities.device) * 2 + positive
    numbers = group * thresholds + passed
    counts = occurrences(numbers, counted, classes * 2 * thresholds)
    return counts.reshape(classes, 2, thresholds)
