"""The loss by position is the mean loss of the tokens there, over batches of any length."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tbtrainer.panels.loss_by_position import (
    BINS,
    FIRST_POSITIONS,
    LossByPosition,
    positions_of_ticks,
)
from tbtrainer.panels.panel import KeptOfAllRanks, PanelBatch, PanelEvaluation
from tbtrainer.records import Image
from tests.language_models import Paragraphs, batch_of, evaluation_of, gpt2, predicted, t5


def means_of(batch: PanelBatch, evaluation: PanelEvaluation) -> dict[int, float]:
    """The mean loss of each bin that has tokens, by its first position."""
    totals = LossByPosition().batch(batch, evaluation).totals
    means = totals["loss"] / totals["tokens"]
    filled = totals["tokens"].nonzero().flatten().tolist()
    return {int(FIRST_POSITIONS[index]): float(means[index]) for index in filled}


def expected(batch: PanelBatch, shift: int = 1) -> np.ndarray[Any, Any]:
    """The loss of each label, NaN where there is none."""
    logits, labels = batch.outputs["logits"], batch.labels
    end = logits.shape[1] - shift
    losses = cross_entropy(
        logits[:, :end].flatten(0, 1), labels[:, shift:].flatten(), reduction="none"
    )
    found = torch.full(labels.shape, torch.nan)
    found[:, shift:] = losses.view(len(labels), -1)
    return torch.where(labels >= 0, found, torch.nan).numpy()


def test_it_is_the_mean_loss_of_the_tokens_there() -> None:
    model = gpt2()
    batch = predicted(model, batch_of(Paragraphs(6).rows))
    found, losses = means_of(batch, evaluation_of(model, batch)), expected(batch)
    assert found[1] == pytest.approx(np.nanmean(losses[:, 1]))
    assert found[7] == pytest.approx(np.nanmean(losses[:, 7]))
    assert found[16] == pytest.approx(np.nanmean(losses[:, 16:20]))
    assert 0 not in found


def test_the_first_token_of_an_encoder_decoder_has_a_loss() -> None:
    model = t5()
    batch = predicted(model, batch_of(Paragraphs(6).rows))
    found = means_of(batch, evaluation_of(model, batch))
    assert found[0] == pytest.approx(np.nanmean(expected(batch, shift=0)[:, 0]))


def test_padding_at_the_beginning_has_no_position() -> None:
    model = gpt2()
    rows = [[5, 6, 7, 8, 9], [10, 11]]
    batch = predicted(model, batch_of(rows, left=True))
    losses = expected(batch)
    found = means_of(batch, evaluation_of(model, batch))
    assert found[1] == pytest.approx(np.mean([losses[0, 1], losses[1, 4]]))
    assert found[2] == pytest.approx(losses[0, 2])


def test_several_texts_in_one_sequence_each_begin_at_zero() -> None:
    model = gpt2()
    inputs = batch_of([[5, 6, 7, 8, 9]])
    inputs["position_ids"] = torch.tensor([[0, 1, 2, 0, 1]])
    batch = predicted(model, inputs)
    losses = expected(batch)
    found = means_of(batch, evaluation_of(model, batch))
    assert found[1] == pytest.approx(np.mean([losses[0, 1], losses[0, 4]]))
    assert found[0] == pytest.approx(losses[0, 3])


def test_every_position_is_in_the_bin_that_begins_before_it() -> None:
    assert BINS == 64
    assert list(FIRST_POSITIONS) == sorted(set(FIRST_POSITIONS))
    assert FIRST_POSITIONS[-1] == 114_688
    model = gpt2()
    inputs = batch_of([[5] * 6])
    batch = predicted(model, inputs)
    far = torch.tensor([[7, 8, 9, 10, 131_071, 10**7]])
    batch = PanelBatch(
        1, {**batch.inputs, "position_ids": far}, batch.outputs, None, batch.labels, None
    )
    tokens = LossByPosition().batch(batch, evaluation_of(model, batch)).totals["tokens"]
    filled = tokens.nonzero().flatten().tolist()
    found = {int(FIRST_POSITIONS[index]): int(tokens[index]) for index in filled}
    assert found == {8: 2, 10: 1, 114_688: 2}


def drawn(tokens: dict[int, int], not_finite: int = 0) -> list[Image]:
    """What is drawn of some tokens per bin, each with a loss of 2."""
    counts = np.zeros(BINS, dtype=np.int64)
    for index, number in tokens.items():
        counts[index] = number
    model = gpt2()
    batch = predicted(model, batch_of([[5, 6, 7]]))
    totals = {"loss": counts * 2.0, "tokens": counts, "not_finite": np.array(not_finite)}
    kept = KeptOfAllRanks({}, None, totals, 3)
    return LossByPosition().draw(kept, evaluation_of(model, batch, dataset="short"))


def test_a_picture_is_drawn_of_bins_with_gaps() -> None:
    (image,) = drawn({1: 5, 3: 4, 40: 1}, not_finite=2)
    assert image.tag == "eval/short/loss_by_position"
    assert image.pixels.std() > 0


@pytest.mark.parametrize(
    "ends, expected",
    [
        ((1, 31), [1, 2, 4, 8, 16]),
        ((1, 3), [1, 2, 3]),
        ((2, 3), [2, 3]),
        ((40, 60), [40, 49, 60]),
        ((1, 131072), [1, 8, 64, 512, 4096, 32768]),
    ],
)
def test_the_axis_of_positions_has_some_whole_numbers(
    ends: tuple[float, float], expected: list[int]
) -> None:
    assert positions_of_ticks(*ends) == expected


@pytest.mark.parametrize("tokens", [{}, {4: 10}])
def test_nothing_is_drawn_of_a_single_position(tokens: dict[int, int]) -> None:
    assert drawn(tokens) == []
