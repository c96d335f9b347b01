"""The text of examples, from their tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.nested import is_tensor


def tokenizer_of(processing_class: Any) -> Any:
    """Returns the tokenizer that a trainer was given, alone or in a processor, or `None`."""
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    return tokenizer if callable(getattr(tokenizer, "decode", None)) else None


def has_texts(inputs: Mapping[str, Any], processing_class: Any) -> bool:
    """Returns whether each example is one sequence of tokens, and there is a tokenizer."""
    tokens = inputs.get("input_ids")
    is_sequence = is_tensor(tokens) and tokens.dim() == 2 and not tokens.is_floating_point()
    return is_sequence and tokenizer_of(processing_class) is not None


def text_tokens(inputs: Mapping[str, Any], processing_class: Any) -> Tensor:
    """Returns the tokens of each example, plus 1, and 0 for padding.

    So the zeros that `Kept.examples` adds to shorter batches are padding, too.

    Args:
        inputs: Of a batch, for which `has_texts` is true.
        processing_class: Of the trainer.

    Returns:
        int32, shape (examples, tokens).
    """
    tokens, mask = inputs["input_ids"], inputs.get("attention_mask")
    if is_tensor(mask) and mask.shape == tokens.shape:
        is_text = mask != 0
    else:
        padding = getattr(tokenizer_of(processing_class), "pad_token_id", None)
        is_text = tokens != (-1 if padding is None else padding)
    return torch.where(is_text, tokens + 1, 0).to(torch.int32)


def text_of(tokens: NDArray[Any], processing_class: Any) -> str:
    """Returns the text of one example, without special tokens.

    Args:
        tokens: A row of `text_tokens`.
        processing_class: Of the trainer.
    """
    numbers = [int(token) - 1 for token in tokens if token > 0]
    return str(tokenizer_of(processing_class).decode(numbers, skip_special_tokens=True))
