"""`TokenMistakes`: the tokens of which a token classifier is most certain, and wrong."""

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.classified import classified
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.tasks import class_label
from tbtrainer.panels.token_labels import (
    is_token_classification,
    tokens_as_examples,
    tokens_line,
)
from tbtrainer.panels.token_texts import has_texts, text_tokens, tokenizer_of
from tbtrainer.records import Text
from tbtrainer.redaction import redacted_text

# Tokens on each side of a mistake that are kept, and characters that are shown.
AROUND = 24
_MOST_BESIDE = 100
_HEADER = ("text", "label", "prediction", "confidence")
# Tokens that are no part of the text. Unknown words, which have a special token too, are.
_NOT_TEXT = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


class TokenMistakes(Panel):
    """Shows the most confident mistakes of a token classifier, each in the text around it."""

    name = "token_mistakes"
    most_examples = 20

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether each token has a class, and there is a tokenizer to decode them."""
        batch = evaluation.first_batch
        return (
            is_token_classification(evaluation)
            and batch is not None
            and has_texts(batch.inputs, evaluation.processing_class)
        )

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the most confident mistakes of the batch, with the tokens around them."""
        found = classified(tokens_as_examples(batch))
        worst, confidence = found.worst(self.most_examples)
        tokens = text_tokens(batch.inputs, evaluation.processing_class)
        return Kept(
            examples={
                "tokens": windows(tokens, worst, AROUND),
                "label": found.labels[worst],
                "prediction": found.predictions[worst],
            },
            priority=confidence,
            totals={"counted": found.counted.sum(), "wrong": found.wrong.sum()},
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, the most confident mistake first."""
        counted, wrong = int(kept.totals["counted"]), int(kept.totals["wrong"])
        if counted == 0:
            return []
        among = tokens_line(counted, kept.seen)
        if wrong == 0:
            card = f"No mistakes in {among}."
        else:
            rows = list(_rows(kept, evaluation))
            shown = "All" if len(rows) == wrong else f"The {len(rows)} most confident of"
            card = f"{shown} {wrong:,} mistakes in {among}:\n\n{table(_HEADER, rows)}"
        return [Text(evaluation.tag(self.name), card)]


def windows(tokens: Tensor, places: Tensor, around: int) -> Tensor:
    """Returns the tokens around some places of sequences, and zeros beyond the sequences' ends.

    Args:
        tokens: Shape (sequences, tokens).
        places: Of the flattened tokens, int64, shape (places,).
        around: Tokens to return on each side of a place.

    Returns:
        Shape (places, 2 · around + 1), of the dtype of `tokens`.
    """
    length = tokens.shape[1]
    padded = torch.nn.functional.pad(tokens, (around, around))
    columns = (places % length)[:, None] + torch.arange(2 * around + 1, device=places.device)
    return padded[(places // length)[:, None], columns]


def _rows(kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Iterator[list[str]]:
    assert kept.priority is not None
    columns = (kept.examples[name] for name in ("tokens", "label", "prediction"))
    for tokens, label, prediction, confidence in zip(*columns, kept.priority, strict=True):
        yield [
            marked_text(tokens, evaluation.processing_class),
            cell(class_label(evaluation, int(label)), 40),
            cell(class_label(evaluation, int(prediction)), 40),
            f"{confidence:.3f}",
        ]


def marked_text(window: NDArray[Any], processing_class: Any) -> str:
    """Returns a text for one cell, in which the token in the middle is bold.

    If the text has a secret, the secret is hidden and nothing is bold.

    Args:
        window: A row of `windows` of `text_tokens`.
        processing_class: Of the trainer.
    """
    left, word, right = _parts(window, tokenizer_of(processing_class))
    whole = f"{left}{word}{right}"
    if redacted_text(whole) != whole:
        return cell(whole)
    left = left if len(left) <= _MOST_BESIDE else f"…{left[-_MOST_BESIDE:]}"
    right = right if len(right) <= _MOST_BESIDE else f"{right[:_MOST_BESIDE]}…"
    bold = f"<strong>{cell(word) or '␣'}</strong>"
    return f"{cell(left)}{_gap(left, word)}{bold}{_gap(word, right)}{cell(right)}"


def _parts(window: NDArray[Any], tokenizer: Any) -> tuple[str, str, str]:
    """Returns the text before the token in the middle of a window, its own, and that after it."""
    special = {getattr(tokenizer, name, None) for name in _NOT_TEXT}
    at = len(window) // 2
    numbers = [int(token) - 1 for token in window]
    before = [number for number in numbers[:at] if number >= 0 and number not in special]
    middle = [number for number in numbers[at : at + 1] if number >= 0]
    after = [number for number in numbers[at + 1 :] if number >= 0 and number not in special]
    # Decoded together, because some tokenizers leave out the space in front of a text.
    left = str(tokenizer.decode(before))
    until = str(tokenizer.decode(before + middle))
    whole = str(tokenizer.decode(before + middle + after))
    if whole.startswith(until) and until.startswith(left):
        return left, until[len(left) :], whole[len(until) :]
    return f"{left} ", str(tokenizer.decode(middle)), f" {tokenizer.decode(after)}"


def _gap(left: str, right: str) -> str:
    """Returns the space between two texts, if there is one."""
    touching = left[-1:] + right[:1]
    return " " if len(touching) == 2 and any(map(str.isspace, touching)) else ""
