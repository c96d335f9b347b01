"""`Generations`: what a language model writes after a few fixed prompts."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.generating import can_generate, generate, is_divided, unsupported_reason
from tbtrainer.panels.language_tasks import is_encoder_decoder, is_sequence, label_shift
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.prompts import EXAMPLES, MOST_PROMPTS, prompts_of_rank_zero
from tbtrainer.panels.token_texts import text_of, text_tokens, tokenizer_of
from tbtrainer.records import Text
from tbtrainer.sharding.world import own_rank, true_on_any_rank

logger = logging.getLogger(__name__)

# The most tokens that are shown of an example for which the evaluation has generated.
_MOST_TOKENS = 128
# What a batch of text has beside its tokens. A model that needs more is given no prompt.
_TEXT_INPUTS = frozenset(
    {"input_ids", "attention_mask", "labels", "position_ids", "token_type_ids", "length"}
    | {"decoder_input_ids", "decoder_attention_mask", "special_tokens_mask"}
)


class Generations(Panel):
    """Shows what a language model writes after `generation_prompts`.

    Without them it continues the first examples of the evaluation: after the first half of an
    example, after the tokens without a label where an example begins with some, or for an
    encoder-decoder what it makes of the whole input. What the data has there is shown beside it.
    If the evaluation itself generates (`predict_with_generate`), that is shown, at no cost.

    The model generates at most 32 tokens per prompt, all prompts together in one batch.
    """

    name = "generations"
    most_examples = MOST_PROMPTS

    def __init__(self) -> None:
        # Of the evaluation that is open: whether it generates, and its first examples.
        self._is_generated = False
        self._first: PanelBatch | None = None

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether the model can generate text, or the evaluation has generated it.

        Raises:
            ValueError: There are prompts, and no tokenizer.
        """
        prompts = evaluation.generation_prompts
        if prompts is not None and len(prompts) == 0:
            return False
        if tokenizer_of(evaluation.processing_class) is None:
            if prompts is None:
                return False
            raise ValueError("generation_prompts need a tokenizer: pass it as processing_class.")
        self._first, self._is_generated = None, _is_generated(evaluation.first_batch)
        if prompts is None and self._is_generated:
            return True
        if not can_generate(evaluation.model) or (prompts is None and not _has_text(evaluation)):
            return False
        reason = unsupported_reason(evaluation.model)
        if reason is not None and own_rank() == 0:
            _explain(reason)
        if reason is None and prompts is None:
            self._first = _first_examples(evaluation.first_batch)
        return reason is None

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept | None:
        """Returns what the evaluation has generated, if it has."""
        if evaluation.generation_prompts is not None or not _is_generated(batch):
            return None
        kept = {"generated": batch.predictions, "reference": batch.labels}
        examples = {
            name: torch.where(tokens >= 0, tokens + 1, 0)[:, :_MOST_TOKENS].to(torch.int32)
            for name, tokens in kept.items()
        }
        if is_sequence(batch.inputs.get("input_ids")):
            tokens = text_tokens(batch.inputs, evaluation.processing_class)
            examples["prompt"] = tokens[:, :_MOST_TOKENS]
        return Kept(examples=examples)

    def finish(self, evaluation: PanelEvaluation) -> Kept | None:
        """Returns what the model generates now, on world rank zero.

        Where the parameters are divided over ranks, every rank runs the model with world rank
        zero's prompts, and first receives them in two collectives. With several ranks one more says
        whether the evaluation has generated.
        """
        first, self._first = self._first, None
        # A rank without examples does not know it, and has to reach the same collectives.
        (has_generated,) = true_on_any_rank([self._is_generated])
        if evaluation.generation_prompts is None and has_generated:
            return None
        divided = is_divided(evaluation.model)
        if own_rank() != 0 and not divided:
            return None
        prompts = prompts_of_rank_zero(replace(evaluation, first_batch=first), divided)
        if not prompts.tokens:
            return None
        generated = generate(evaluation, prompts.tokens)
        if own_rank() != 0:
            return None
        kept = {"prompt": prompts.tokens, "generated": generated, "reference": prompts.references}
        # All of them are one example, so that none is sampled away.
        return Kept(examples={name: _padded(rows)[None] for name, rows in kept.items()})

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, one row per prompt."""
        if "generated" not in kept.examples:
            return []
        columns = {
            name: tokens[0] if tokens.ndim == 3 else tokens[:EXAMPLES]
            for name, tokens in kept.examples.items()
        }
        header = [name for name in ("prompt", "generated", "reference") if name in columns]
        if evaluation.generation_prompts is not None:
            header.remove("reference")
        rows = list(_rows(columns, header, evaluation))
        return [Text(evaluation.tag(self.name), table(header, rows))] if rows else []


def _rows(
    columns: Mapping[str, NDArray[Any]], header: Sequence[str], evaluation: PanelEvaluation
) -> Iterator[list[str]]:
    for row in range(len(columns["generated"])):
        texts = {name: text_of(columns[name][row], evaluation.processing_class) for name in header}
        if evaluation.generation_prompts is not None:
            texts["prompt"] = evaluation.generation_prompts[row]
        yield [cell(texts[name], 400) for name in header]


def _is_generated(batch: PanelBatch | None) -> bool:
    """Returns whether the evaluation has generated tokens instead of computing logits."""
    if batch is None or batch.outputs is not None:
        return False
    return is_sequence(batch.predictions) and is_sequence(batch.labels)


def _first_examples(batch: PanelBatch | None) -> PanelBatch | None:
    """Returns a copy of what prompts are made of: inputs and labels of the first examples."""
    if batch is None:
        return None
    few = min(EXAMPLES, batch.size)
    inputs = {name: t[:few].clone() for name, t in batch.inputs.items() if is_tensor(t)}
    labels = batch.labels[:few].clone() if is_tensor(batch.labels) else None
    return PanelBatch(few, inputs, None, None, labels, None)


def _has_text(evaluation: PanelEvaluation) -> bool:
    """Returns whether the examples are text alone, which the model can be given a part of."""
    batch = evaluation.first_batch
    if batch is None or not is_sequence(batch.inputs.get("input_ids")):
        return False
    others = {name for name, value in batch.inputs.items() if is_tensor(value)} - _TEXT_INPUTS
    is_model = is_encoder_decoder(evaluation.config) or label_shift(evaluation) == 1
    return is_model and not others and is_sequence(batch.labels)


@cache
def _explain(reason: str) -> None:
    logger.warning("The panel generations is left out: %s. The other panels are shown.", reason)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Returns rows of tokens plus 1, with zeros at the end of the shorter ones. int32."""
    width = max(map(len, rows), default=0)
    return torch.tensor(
        [[*(token + 1 for token in row), *[0] * (width - len(row))] for row in rows],
        dtype=torch.int32,
    ).reshape(len(rows), width)
