"""`PerplexityByLength`: the perplexity of short, middle and long sequences."""

import numpy as np
import torch
from numpy.typing import NDArray

from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.language_tasks import is_encoder_decoder, is_language_model, label_shift
from tbtrainer.panels.markdown import table
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.token_losses import text_mask, token_losses
from tbtrainer.records import Text


class PerplexityByLength(Panel):
    """Shows the perplexity of the shortest, the middle and the longest third of the sequences.

    The length is the number of tokens with a label, or for a masked model, which labels few of
    them at random, the number of tokens. If all sequences are equally long, nothing is shown.
    """

    name = "perplexity_by_length"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is language modelling."""
        return is_language_model(evaluation)

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns loss, number of tokens and length of each example."""
        losses = token_losses(batch, evaluation)
        length = losses.labelled.sum(dim=1)
        if label_shift(evaluation) == 0 and not is_encoder_decoder(evaluation.config):
            mask = text_mask(batch, evaluation, losses.labels.shape)
            places = losses.labels.shape[1]
            length = torch.full_like(length, places) if mask is None else mask.sum(dim=1)
        return Kept(
            examples={
                "loss": losses.loss.sum(dim=1),
                "tokens": losses.counted.sum(dim=1).to(torch.int32),
                "length": length.to(torch.int32),
            }
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Text]:
        """Returns a card with a table, if the lengths differ."""
        has_tokens = kept.examples["tokens"] > 0
        loss, tokens, length = (
            kept.examples[name][has_tokens].astype(np.float64)
            for name in ("loss", "tokens", "length")
        )
        thirds = list(thirds_of(length))
        if len(thirds) < 2:
            return []
        rows = []
        for third in thirds:
            mean = loss[third].sum() / tokens[third].sum()
            shortest, longest = int(length[third].min()), int(length[third].max())
            rows.append(
                [
                    f"{shortest:,}" if shortest == longest else f"{shortest:,} – {longest:,}",
                    f"{np.count_nonzero(third):,}",
                    f"{int(tokens[third].sum()):,}",
                    f"{mean:.4f}",
                    _number(mean),
                ]
            )
        header = ["length in tokens", "sequences", "predicted tokens", "loss", "perplexity"]
        line = examples_line(len(length), kept.seen)
        return [Text(evaluation.tag(self.name), f"{line}:\n\n{table(header, rows)}")]


def thirds_of(lengths: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Returns which sequences are in the shortest, the middle and the longest third.

    Sequences of equal length are in the same third. So a third may be empty, and is then left out.

    Args:
        lengths: Shape (sequences,).

    Returns:
        Masks of the shape (sequences,).
    """
    if len(lengths) == 0:
        return []
    ordered = np.sort(lengths)
    ends = ordered[[-(-len(lengths) // 3) - 1, -(-2 * len(lengths) // 3) - 1]]
    number = np.searchsorted(ends, lengths, side="left")
    masks = [number == third for third in range(3)]
    return [mask for mask in masks if mask.any()]


def _number(mean: float) -> str:
    """Returns the perplexity of a mean loss."""
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(mean))
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.3g}"
