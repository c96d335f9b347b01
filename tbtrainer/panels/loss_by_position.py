"""`LossByPosition`: whether a language model uses what comes before a token."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.columns import on_device
from tbtrainer.panels.language_tasks import is_language_model
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import picture
from tbtrainer.panels.token_losses import TokenLosses, text_mask, token_losses
from tbtrainer.panels.totals import wide
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first positions have a bin each. Then every doubling is divided into four equal bins, up to
# position 131,072; the last bin also has what is after it. They do not depend on the data, so that
# batches and ranks can be added up.
SINGLE_BINS = 8
_DOUBLINGS = 14
FIRST_POSITIONS = np.array(
    [
        *range(SINGLE_BINS),
        *(2**d * (4 + quarter) // 4 for d in range(3, 3 + _DOUBLINGS) for quarter in range(4)),
    ]
)
BINS = len(FIRST_POSITIONS)
_BLUE, _GREY = "#0072b2", "#666666"


class LossByPosition(Panel):
    """Shows the mean loss of the tokens at each position of their sequences.

    A model that learns from context has a lower loss at later positions. A loss that rises where
    sequences are longer than those of the training shows that the model cannot use them.
    """

    name = "loss_by_position"

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether it is language modelling."""
        return is_language_model(evaluation)

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns loss and number of the tokens per bin of positions."""
        losses = token_losses(batch, evaluation)
        bins = _bins(_positions(batch, evaluation, losses))
        # One more for what is not counted.
        bins = torch.where(losses.counted, bins, BINS).flatten()
        loss = wide(losses.loss.flatten())
        tokens = losses.counted.flatten().to(torch.int64)
        return Kept(
            totals={
                "loss": loss.new_zeros(BINS + 1).index_add_(0, bins, loss)[:BINS],
                "tokens": tokens.new_zeros(BINS + 1).index_add_(0, bins, tokens)[:BINS],
                "not_finite": (losses.labelled & ~losses.counted).sum(),
            }
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns a picture, if there are tokens at two bins of positions."""
        tokens = kept.totals["tokens"]
        if np.count_nonzero(tokens) < 2:
            return []
        means = np.divide(kept.totals["loss"], tokens, out=np.full(BINS, np.nan), where=tokens > 0)
        mean = float(kept.totals["loss"].sum() / tokens.sum())
        counted, left_out = int(tokens.sum()), int(kept.totals["not_finite"])
        title = f"{counted:,} tokens of {kept.seen:,} examples\nmean loss {mean:.3g} (dashed)"
        if left_out:
            title += f", {left_out:,} tokens not finite"

        def draw(figure: "Figure") -> None:
            _draw(figure, means, mean, title)

        return [picture(evaluation.tag(self.name), draw, height=2.6)]


def _positions(batch: PanelBatch, evaluation: PanelEvaluation, losses: TokenLosses) -> Tensor:
    """Returns the position of each token in its text, from 0 on, int64.

    Several texts in one sequence are told apart by `position_ids`, padding at the beginning by
    `attention_mask`.
    """
    shape = losses.labels.shape
    mask = text_mask(batch, evaluation, shape)
    given = batch.inputs.get("position_ids")
    if mask is not None and not (is_tensor(given) and given.shape == shape):
        return mask.to(torch.int64).cumsum(1) - 1
    if is_tensor(given) and given.shape == shape:
        return given.to(torch.int64)
    return torch.arange(shape[1], device=losses.labels.device).expand(shape)


def _bins(positions: Tensor) -> Tensor:
    """Returns the number of the bin of each position."""
    edges = on_device(FIRST_POSITIONS[1:], positions.device)
    return torch.bucketize(positions.contiguous(), edges, right=True)


def _draw(figure: "Figure", means: NDArray[np.float64], mean: float, title: str) -> None:
    axes = figure.add_subplot()
    last = int(np.flatnonzero(np.isfinite(means))[-1])
    # Positions are counted from 1 on, so that the first one has a place on the axis.
    edges = np.append(FIRST_POSITIONS, 2 * FIRST_POSITIONS[-1])[: last + 2] + 1
    centres = np.sqrt(edges[:-1] * (edges[1:] - 1))
    shown = means[: last + 1]
    axes.plot(centres, shown, color=_BLUE, linewidth=1.5, marker="o", markersize=2.5)
    axes.axhline(mean, color=_GREY, linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("position in the sequence", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(linewidth=0.3)
