"""Labels and probabilities of a batch of a multi-label classification, on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch


@dataclass(frozen=True)
class MultiLabelled:
    """A batch of examples that each may have any number of labels.

    Attributes:
        probabilities: Sigmoid of the logits, float32 or float64, shape (examples, labels).
        positive: Whether the example has the label, bool, of the same shape.
        counted: False where a label is negative or NaN, which stands for unknown, and where a
            logit is NaN. bool, of the same shape.
        odd: Number of labels that are neither 0 nor 1 nor unknown, int64, a scalar. With any of
            them it is no multi-label classification.
    """

    probabilities: Tensor
    positive: Tensor
    counted: Tensor
    odd: Tensor


def multi_labelled(batch: PanelBatch) -> MultiLabelled:
    """Reads a batch of an evaluation for which `is_multi_label` is true, once for all panels."""
    return batch.computed(_multi_labelled)


def _multi_labelled(batch: PanelBatch) -> MultiLabelled:
    logits, labels = batch.logits, batch.labels
    assert logits is not None and is_tensor(labels)
    wide = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.to(wide).sigmoid()
    positive = labels == 1
    is_known = positive | (labels == 0)
    return MultiLabelled(
        probabilities=probabilities,
        positive=positive,
        counted=is_known & ~probabilities.isnan(),
        odd=((labels > 0) & ~positive).sum(),
    )
