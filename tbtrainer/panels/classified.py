"""Labels, predictions and confidences of a batch with one class per example, on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelBatch


@dataclass(frozen=True)
class Classified:
    """A batch of examples that each have one of several classes. Panels share it.

    Attributes:
        probabilities: Softmax of the logits, float32 or float64, shape (examples, classes).
        labels: int64, shape (examples,); 0 where an example is not counted.
        predictions: The class of the highest logit, int64, shape (examples,).
        confidence: Its probability, shape (examples,).
        counted: bool, shape (examples,): false where the label is no class, such as -100, or where
            a probability is not finite.
    """

    probabilities: Tensor
    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    counted: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.probabilities.shape[1]

    @property
    def correct(self) -> Tensor:
        """Whether an example is counted and predicted as its label, bool, shape (examples,)."""
        return self.counted & (self.predictions == self.labels)

    @property
    def wrong(self) -> Tensor:
        """Whether an example is counted and predicted as another class, bool, (examples,)."""
        return self.counted & (self.predictions != self.labels)

    def worst(self, most: int) -> tuple[Tensor, Tensor]:
        """Returns where the most confident mistakes are, and how confident they are.

        Args:
            most: The most mistakes. If there are fewer, other examples follow them, with a
                confidence of minus infinity.

        Returns:
            int64 and floating, each of shape (min(most, examples),).
        """
        priority = torch.where(self.wrong, self.confidence, -torch.inf)
        # Stable, so that of equal ones the earlier comes first.
        ranked = torch.sort(priority, descending=True, stable=True)
        return ranked.indices[:most], ranked.values[:most]


def classified(batch: PanelBatch) -> Classified:
    """Reads a batch of an evaluation for which `is_single_label` is true, once for all panels."""
    return batch.computed(_classified)


def _classified(batch: PanelBatch) -> Classified:
    logits = batch.logits
    assert logits is not None and is_tensor(batch.labels)
    wide = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.softmax(dim=1, dtype=wide)
    labels = batch.labels.reshape(-1).to(torch.int64)
    is_class = (labels >= 0) & (labels < logits.shape[1])
    counted = is_class & probabilities.isfinite().all(dim=1)
    return Classified(
        probabilities=probabilities,
        labels=torch.where(counted, labels, 0),
        predictions=logits.argmax(dim=1),
        confidence=probabilities.amax(dim=1),
        counted=counted,
    )
