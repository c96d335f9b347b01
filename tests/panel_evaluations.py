"""Evaluations for panels, from logits and labels, without a model and a trainer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from transformers import TrainingArguments

from tbtrainer.isolation import Isolation
from tbtrainer.observers.evaluation_panels import EvaluationPanels
from tbtrainer.observers.facts import Evaluation, EvaluationBatch
from tbtrainer.observers.open_evaluation import PanelSetting
from tbtrainer.panels import Panel, PanelBatch, PanelEvaluation
from tbtrainer.records import Deferred, Record
from tbtrainer.sharding.ranks import ModelParallelSizes

_ARGUMENTS = TrainingArguments(output_dir="unused", report_to="none")


def batch(logits: Any, labels: Any, **inputs: Any) -> PanelBatch:
    """A batch as a panel is given it."""
    inputs = {"labels": labels, **inputs}
    return PanelBatch(len(logits), inputs, {"logits": logits}, None, labels, None)


def evaluation(first: PanelBatch | None = None, **changes: Any) -> PanelEvaluation:
    """An evaluation with its first batch.

    Args:
        first: The batch.
        changes: Attributes of the evaluation; others of the model's configuration.
    """
    values: dict[str, Any] = {
        "step": 3,
        "dataset": None,
        "processing_class": None,
        "examples": 1000,
    }
    own = {name: changes.pop(name) for name in values if name in changes}
    return PanelEvaluation(
        model=nn.Identity(),
        config=SimpleNamespace(**changes),
        training_arguments=_ARGUMENTS,
        first_batch=first,
        **{**values, **own},
    )


def drawn(panel: Panel, batches: Sequence[PanelBatch], **changes: Any) -> list[Record]:
    """What a panel shows of an evaluation of some batches."""
    setting = PanelSetting([panel], frozenset(), evaluation(**changes), ModelParallelSizes())
    panels = EvaluationPanels(lambda step, dataset: setting, lambda: [1], Isolation("raise"))
    panels.evaluation_begins(3, None)
    for given in batches:
        shown = EvaluationBatch(
            given.inputs, None, None, given.labels, given.outputs, given.size, given.size
        )
        panels.evaluation_batch(3, shown)
    ended = panels.evaluation_ended(3, Evaluation({}, None, 1.0, False))
    return [record for later in ended if isinstance(later, Deferred) for record in later.make()]


def split(logits: Tensor, labels: Tensor, size: int) -> Iterator[PanelBatch]:
    """The batches of some examples; the last may be smaller."""
    for one, other in zip(logits.split(size), labels.split(size), strict=True):
        yield batch(one, other)


def on_meta(given: PanelBatch) -> PanelBatch:
    """A batch without values: what looks at one, or waits for the device, fails."""
    inputs = {name: value.to("meta") for name, value in given.inputs.items()}
    return replace(
        given,
        inputs=inputs,
        outputs={"logits": given.outputs["logits"].to("meta")},
        labels=inputs["labels"],
    )


def texts_of_pictures(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[str]:
    """The texts of the pictures that a module draws from now on."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    texts: list[str] = []
    picture = module.picture

    def noted(tag: str, draw: Any, *sizes: float) -> Any:
        def draw_and_note(figure: Figure) -> None:
            draw(figure)
            texts.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())

        return picture(tag, draw_and_note, *sizes)

    monkeypatch.setattr(module, "picture", noted)
    return texts
