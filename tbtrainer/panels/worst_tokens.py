"""`WorstTokens`: the tokens that a language model expected least."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.language_tasks import is_encoder_decoder, is_language_model, is_sequence
from tbtrainer.panels.markdown import cell, table
from tbtrainer.panels.marked_texts import marked_text, windows
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.token_losses import TokenLosses, token_losses
from tbtrainer.panels.token_texts import text_tokens, tokenizer_of
from tbtrainer.records import Text

# Tokens that are shown on each side.
CONTEXT = 12


class WorstTokens(Panel):
    """Shows the token with the highest loss of each example, for the examples with the highest.

    Beside it are the token that the model preferred, the probabilities of both, and the text around
    it as the model was given it.
    """

    name = "worst_tokens"
    most_examples = 20

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is language modelling, and there is a tokenizer."""
        has_text = tokenizer_of(evaluation.processing_class) is not None
        return has_text and is_language_model(evaluation)

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns the worst token of each example, with its loss as priority."""
        losses = token_losses(batch, evaluation)
        worst, place = torch.where(losses.counted, losses.loss, -torch.inf).max(dim=1)
        examples = {
            "label": losses.labels.gather(1, place[:, None]).squeeze(1).to(torch.int32),
            "context": _context(batch, evaluation, losses, place),
        }
        if batch.logits is not None:
            preferred, examples["probability"] = _preferred(batch.logits, losses, place)
            examples["preferred"] = preferred.to(torch.int32)
        return Kept(examples=examples, priority=worst)

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, the highest loss first."""
        if kept.priority is None or len(kept.priority) == 0:
            return []
        header = ["token", "probability", "context"]
        if "preferred" in kept.examples:
            header[2:2] = ["the model preferred", "probability"]
        rows = list(_rows(kept, evaluation))
        line = examples_line(len(rows), kept.seen)
        card = f"{line}, and the token with the highest loss in each:\n\n{table(header, rows)}"
        return [Text(evaluation.tag(self.name), card)]


def _preferred(logits: Tensor, losses: TokenLosses, place: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the most probable token at one place of each example, and its probability."""
    at = (place - losses.shift).clamp(min=0)[:, None, None].expand(-1, 1, logits.shape[2])
    row = logits.gather(1, at).squeeze(1).to(losses.loss.dtype)
    highest, token = row.max(dim=1)
    return token, (highest - row.logsumexp(dim=1)).exp()


def _context(
    batch: PanelBatch, evaluation: PanelEvaluation, losses: TokenLosses, place: Tensor
) -> Tensor:
    """Returns the tokens around one place of each example, plus 1, and 0 for none.

    The label is in the middle, also where the model was given a mask in its place. int32, shape
    (examples, 2 · CONTEXT + 1).
    """
    labels = losses.labels
    tokens = torch.where(labels >= 0, labels + 1, 0)
    given = None if is_encoder_decoder(evaluation.config) else batch.inputs.get("input_ids")
    if is_sequence(given) and given.shape == labels.shape:
        tokens = text_tokens(batch.inputs, evaluation.processing_class).to(labels.device)
    rows = torch.arange(len(labels), device=labels.device)
    context = windows(tokens.to(torch.int32), rows * labels.shape[1] + place, CONTEXT)
    label = labels.gather(1, place[:, None]).to(torch.int32) + 1
    return torch.cat([context[:, :CONTEXT], label, context[:, CONTEXT + 1 :]], dim=1)


def _rows(kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Iterator[list[str]]:
    assert kept.priority is not None
    tokenizer, found = tokenizer_of(evaluation.processing_class), kept.examples

    def token(number: int) -> str:
        return cell(visible(tokenizer.decode([number])), 40)

    for row, loss in enumerate(kept.priority):
        cells = [token(int(found["label"][row])), _probability(float(np.exp(-loss)))]
        if "preferred" in found:
            cells += [token(int(found["preferred"][row]))]
            cells += [_probability(float(found["probability"][row]))]
        yield [*cells, marked_text(found["context"][row], evaluation.processing_class)]


def visible(token: str) -> str:
    """Returns the text of a token without spaces around it; one that is nothing else as signs.

    Example:
        >>> visible(" the"), visible("  ")
        ('the', '␣␣')
    """
    signs = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return token.strip() or signs


def _probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
