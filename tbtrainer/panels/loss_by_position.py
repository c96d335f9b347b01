"""`LossByPosition`: whether a language model uses what comes before a token."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbtrainer.panels.columns import on_device
from tbtrainer.panels.language_tasks import is_language_model
from tbtrainer.panels.nested import is_tensor
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import picture, write_title
from tbtrainer.panels.plots import BLUE, DASHES, GREY, limits, plain, show_line
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
# The most numbers on the axis of positions.
_MOST_TICKS = 8


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
        title = f"{counted:,} tokens of {kept.seen:,} examples, mean loss {mean:.3g} (dashed)"
        if left_out:
            title += f"\n{left_out:,} tokens not finite"

        def draw(figure: "Figure") -> None:
            _draw(figure, means, mean, title)

        return [picture(evaluation.tag(self.name), draw)]


def _positions(batch: PanelBatch, evaluation: PanelEvaluation, losses: TokenLosses) -> Tensor:
    """Returns the position of each token in its text, from 0 on, int64.

    Several texts in one sequence are separated by `position_ids`, padding at the beginning by
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
    from matplotlib.ticker import FixedLocator

    write_title(figure, title)
    axes = figure.add_subplot()
    shown = np.flatnonzero(np.isfinite(means))
    # Positions are counted from 1 on, so that the first one has a place on the axis.
    edges = np.append(FIRST_POSITIONS, 2 * FIRST_POSITIONS[-1]) + 1
    centres = np.sqrt(edges[:-1] * (edges[1:] - 1))
    # The logarithm is taken here: matplotlib's own axis has no number between two powers.
    axes.set_xlim(*limits(np.log2(centres[shown])))
    axes.set_ylim(*limits(means[shown]))
    show_line(axes, axes.get_xlim(), (mean, mean), GREY, linestyle=DASHES)
    marks = {"linewidth": 1.5, "marker": "o", "markersize": 2.5}
    last = slice(shown[-1] + 1)
    show_line(axes, np.log2(centres[last]), means[last], BLUE, **marks)
    plain(axes, "position in the sequence", "loss")
    places = positions_of_ticks(centres[shown[0]], centres[shown[-1]])
    axes.xaxis.set_major_locator(FixedLocator([math.log2(place) for place in places]))
    axes.xaxis.set_major_formatter(lambda place, _: f"{2**place:,.0f}")


def positions_of_ticks(first: float, last: float) -> list[int]:
    """Returns which positions have a number on a logarithmic axis.

    They are powers of two, or every second, third, … of them, if at least three are between the
    ends; otherwise the ends and the middle.

    Example:
        >>> positions_of_ticks(1, 32), positions_of_ticks(20, 30)
        ([1, 2, 4, 8, 16, 32], [20, 24, 30])
    """
    powers = range(math.ceil(math.log2(first)), math.floor(math.log2(last)) + 1)
    if len(powers) < 3:
        return sorted({math.ceil(first), round(math.sqrt(first * last)), math.floor(last)})
    every = math.ceil(len(powers) / _MOST_TICKS)
    return [2**power for power in powers[::every]]
