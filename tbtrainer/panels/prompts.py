"""The prompts after which a language model is asked to continue: given ones, or from the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tbtrainer.panels.generating import MOST_NEW_TOKENS, fitting
from tbtrainer.panels.language_tasks import is_encoder_decoder
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import PanelEvaluation
from tbtrainer.panels.token_texts import text_tokens, tokenizer_of
from tbtrainer.sharding.agreement import numbers_of_rank_zero
from tbtrainer.sharding.world import own_rank

MOST_PROMPTS = 32
# Examples of the evaluation of which a part is a prompt.
EXAMPLES = 3
# The most tokens of the first half of an example.
_MOST_BEGINNING = 64
_MOST_REFERENCE = 128


@dataclass(frozen=True)
class Prompts:
    """Prompts of a language model.

    Attributes:
        tokens: Of each prompt.
        references: What the data has after each prompt; empty for prompts that are given.
    """

    tokens: Sequence[Sequence[int]]
    references: Sequence[Sequence[int]]


def prompts_of_rank_zero(evaluation: PanelEvaluation, everywhere: bool) -> Prompts:
    """Returns world rank zero's prompts.

    Args:
        evaluation: The evaluation, with its first batch.
        everywhere: Whether other ranks need them too. With several ranks this takes two
            collectives. Otherwise other ranks get none.

    Raises:
        ValueError: A prompt has no tokens, or one that the model does not know. On world rank zero;
            the others get no prompts.
    """
    found = Prompts((), ())
    error = None
    if own_rank() == 0:
        try:
            found = _prompts(evaluation)
        except Exception as caught:
            error = caught  # The other ranks wait for the prompts.
    if everywhere:
        found = Prompts(_of_rank_zero(found.tokens), found.references)
    if error is not None:
        raise error
    return found


def _of_rank_zero(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns at most `MOST_PROMPTS` rows of world rank zero, none of them empty, on every rank."""
    lengths = [len(row) for row in rows]
    lengths = numbers_of_rank_zero([*lengths, *[0] * (MOST_PROMPTS - len(lengths))])
    flat = [number for row in rows for number in row] if own_rank() == 0 else [0] * sum(lengths)
    if flat:
        flat = numbers_of_rank_zero(flat)
    ends = [*accumulate(lengths)]
    return [flat[end - n : end] for end, n in zip(ends, lengths, strict=True) if n > 0]


def _prompts(evaluation: PanelEvaluation) -> Prompts:
    texts = evaluation.generation_prompts
    if texts is None:
        return _prompts_of_data(evaluation)
    tokenizer = tokenizer_of(evaluation.processing_class)
    tokens = [encoded(text, tokenizer) for text in texts]
    for text, found in zip(texts, tokens, strict=True):
        if not found:
            raise ValueError(f"generation_prompts has {text!r}, which has no tokens.")
    return Prompts([fitting(found, evaluation) for found in tokens], [()] * len(tokens))


def encoded(text: str, tokenizer: Any) -> list[int]:
    """Returns the tokens of a text, and leaves the tokenizer as it is.

    The state of a fast tokenizer is saved with each checkpoint, and a usual call changes it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return list(tokenizer(text)["input_ids"])
    truncation, padding = backend.truncation, backend.padding
    try:
        backend.no_truncation()
        backend.no_padding()
        return list(backend.encode(text).ids)
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def _prompts_of_data(evaluation: PanelEvaluation) -> Prompts:
    """Returns parts of the first examples, and what follows. Waits for the device."""
    batch = evaluation.first_batch
    if batch is None:
        return Prompts((), ())  # This rank has no examples.
    few = slice(min(EXAMPLES, batch.size))
    tokens = text_tokens(batch.inputs, evaluation.processing_class)[few].tolist()
    labels = batch.labels[few].tolist() if is_tensor(batch.labels) else [[]] * len(tokens)
    prompts, references = [], []
    for row, targets in zip(tokens, labels, strict=True):
        if is_encoder_decoder(evaluation.config):
            prompt = [token - 1 for token in row if token > 0]
            after = [token for token in targets if token >= 0][:_MOST_REFERENCE]
        else:
            prompt, after = _divided(row, targets)
        if prompt:
            prompts.append(fitting(prompt, evaluation))
            references.append(after)
    return Prompts(prompts, references)


def _divided(row: Sequence[int], targets: Sequence[int]) -> tuple[list[int], list[int]]:
    """Divides an example into a prompt and what follows it.

    Args:
        row: Its tokens plus 1, and 0 for padding.
        targets: Its labels, as many; less than 0 for none.
    """
    text = [(token - 1, target) for token, target in zip(row, targets, strict=False) if token > 0]
    tokens = [token for token, _ in text]
    # Where the labels of a question are left out, the answer begins with the first label. The first
    # token alone never has a loss.
    begin = next((place for place, (_, target) in enumerate(text) if target >= 0), 0)
    if begin < 2:
        begin = min(len(tokens) // 2, _MOST_BEGINNING)
    return tokens[:begin], tokens[begin : begin + MOST_NEW_TOKENS]
