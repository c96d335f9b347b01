"""Panels for tests, which keep what they are told or do something else, and their batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tbtrainer.observers.facts import EvaluationBatch
from tbtrainer.panels import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.records import Records, Scalar


class Counted(Panel):
    """Keeps labels and logits of each example, and counts the labels.

    Attributes:
        kept: What was drawn, one per evaluation.
        evaluations: Of which evaluation.
        batches: Sizes of the batches that it was told about.
    """

    def __init__(self, name: str = "Counted", classes: int = 2) -> None:
        self.name = name
        self.kept: list[KeptOfAllRanks] = []
        self.evaluations: list[PanelEvaluation] = []
        self.batches: list[int] = []
        self._classes = classes

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns labels and logits of all examples."""
        assert batch.logits is not None
        self.batches.append(batch.size)
        of_class = batch.labels[:, None] == torch.arange(self._classes, device=batch.labels.device)
        return Kept(
            examples={"label": batch.labels, "logits": batch.logits},
            totals={"labels": of_class.sum(0)},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Records:
        """Returns a scalar, the number of labels of class 1."""
        self.kept.append(kept)
        self.evaluations.append(evaluation)
        return [Scalar(evaluation.tag("ones"), float(kept.totals["labels"][1]))]


class Acting(Counted):
    """Does something else in one of its methods, but not in `finish`.

    Args:
        method: Name of the method.
        act: Is called in its place, with its arguments.
    """

    def __init__(self, method: str, act: Callable[..., Any], name: str = "Acting") -> None:
        super().__init__(name)
        setattr(self, method, act)


class Finishing(Counted):
    """Does something after the last batch. A panel without `finish` is not asked to finish.

    Args:
        act: Is called with the evaluation.
    """

    def __init__(self, act: Callable[..., Any], name: str = "Finishing") -> None:
        super().__init__(name)
        self._act = act

    def finish(self, evaluation: PanelEvaluation) -> Kept | None:
        """Returns what the function returns."""
        found: Kept | None = self._act(evaluation)
        return found


def failing(*arguments: Any) -> Any:
    """Raises an error."""
    raise RuntimeError("no such luck")


def batch_of(labels: Tensor, logits: Tensor | None = None, own: int | None = None) -> Any:
    """A predicted batch with some labels, and with the labels as logits.

    Args:
        labels: Shape (examples,).
        logits: Shape (examples, classes).
        own: How many of the examples count; all if not given.
    """
    logits = torch.stack([labels, -labels], dim=1).float() if logits is None else logits
    return EvaluationBatch(
        inputs={"labels": labels},
        loss=torch.tensor(0.5),
        logits=None,
        labels=labels,
        outputs={"loss": torch.tensor(0.5), "logits": logits},
        examples=len(labels),
        own_examples=len(labels) if own is None else own,
    )


def panel_batch_of(labels: Tensor) -> PanelBatch:
    """A batch of an evaluation, as a panel is given it."""
    batch = batch_of(labels)
    return PanelBatch(
        len(labels), batch.inputs, batch.outputs, batch.logits, batch.labels, batch.loss
    )
