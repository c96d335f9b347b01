"""Tokens with the text around them, for the cells of a table."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.markdown import cell
from tbtrainer.panels.token_texts import tokenizer_of
from tbtrainer.redaction import redacted_text

# The most characters that are shown on each side of a token.
_MOST_BESIDE = 100
# Tokens that are no part of the text. Unknown words, which have a special token too, are.
_NOT_TEXT = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


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
