"""`Mistakes`: the wrong predictions of a classifier with the highest confidence."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.classified import classified
from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import class_label, is_single_label
from tbtrainer.panels.token_texts import has_texts, text_of, text_tokens
from tbtrainer.records import Text

# Inputs that are numbers are shown if an example has at most this many, all columns together.
MOST_NUMBERS = 16
_BESIDE_TEXT = ("attention_mask", "token_type_ids", "position_ids")
# Names of what is kept of the inputs begin so.
_INPUT = "input/"
_TEXT = f"{_INPUT}text"
_OUTPUTS = ("label", "prediction", "confidence")


class Mistakes(Panel):
    """Shows the most confident mistakes of a classifier, with their inputs.

    An input is shown as text if it is tokens and the trainer has a tokenizer, and as numbers if an
    example has few of them. Other inputs are not shown, and then the panel does not apply.
    """

    name = "mistakes"
    most_examples = 20

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is a classification of inputs that can be shown in a table."""
        if not is_single_label(evaluation):
            return False
        assert evaluation.first_batch is not None
        return bool(_shown_inputs(evaluation.first_batch, evaluation))

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the inputs, with the confidence of the wrong predictions as priority."""
        found = classified(batch)
        return Kept(
            examples={
                **_shown_inputs(batch, evaluation),
                "label": found.labels,
                "prediction": found.predictions,
            },
            priority=torch.where(found.wrong, found.confidence, -torch.inf),
            totals={"counted": found.counted.sum(), "wrong": found.wrong.sum()},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, the most confident mistake first."""
        counted, wrong = int(kept.totals["counted"]), int(kept.totals["wrong"])
        if counted == 0:
            return []
        among = examples_line(counted, kept.seen)
        if wrong == 0:
            card = f"No mistakes in {among}."
        else:
            inputs = [name for name in kept.examples if name.startswith(_INPUT)]
            header = [*(cell(name.removeprefix(_INPUT)) for name in inputs), *_OUTPUTS]
            rows = list(_rows(kept, inputs, evaluation))
            shown = "All" if len(rows) == wrong else f"The {len(rows)} most confident of"
            card = f"{shown} {wrong:,} mistakes in {among}:\n\n{table(header, rows)}"
        return [Text(evaluation.tag(self.name), card)]


def _rows(
    kept: KeptOfAllRanks, inputs: list[str], evaluation: PanelEvaluation
) -> Iterator[list[str]]:
    assert kept.priority is not None
    outputs = zip(kept.examples["label"], kept.examples["prediction"], kept.priority, strict=True)
    for row, (label, prediction, confidence) in enumerate(outputs):
        yield [
            *(_shown(name, kept.examples[name][row], evaluation) for name in inputs),
            cell(class_label(evaluation, int(label)), 40),
            cell(class_label(evaluation, int(prediction)), 40),
            f"{confidence:.3f}",
        ]


def _shown_inputs(batch: PanelBatch, evaluation: PanelEvaluation) -> dict[str, Tensor]:
    """Returns what is shown of the inputs, by the names of the columns; empty if nothing can be."""
    if has_texts(batch.inputs, evaluation.processing_class):
        return {_TEXT: text_tokens(batch.inputs, evaluation.processing_class)}
    labels = evaluation.training_arguments.label_names or ()
    numbers = {
        f"{_INPUT}{name}": value
        for name, value in batch.inputs.items()
        if is_tensor(value) and value.dim() <= 2
        if name not in _BESIDE_TEXT and "label" not in name and name not in labels
    }
    columns = sum(math.prod(value.shape[1:]) for value in numbers.values())
    return numbers if columns <= MOST_NUMBERS else {}


def _shown(name: str, value: NDArray[Any], evaluation: PanelEvaluation) -> str:
    if name == _TEXT:
        return cell(text_of(value, evaluation.processing_class))
    return cell(", ".join(f"{number:.4g}" for number in value.reshape(-1).tolist()))
