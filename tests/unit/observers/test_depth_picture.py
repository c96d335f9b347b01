"""A picture shows each block at each snapshot, whatever their number and their values."""

import io
import math
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image as Png

from tbtrainer.observers import depth_picture as module
from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.observers.depth_picture import (
    cells_of,
    depth_picture,
    numbers_of_scale,
    scale_of,
    short_names,
)

RED, GREY, BLACK = (214, 0, 0), (204, 204, 204), (0, 0, 0)


def column(step: int, shown: dict[str, float]) -> BlockNumbers:
    """Numbers of a snapshot: infinity stands for a block that is not finite."""
    values = np.array(list(shown.values()))
    rms = np.where(np.isinf(values), 1.0, values)
    bad = np.isinf(values).astype(np.int64)
    return BlockNumbers("gradients", step, tuple(shown), rms, rms, rms, rms, bad)


def noise(blocks: int, snapshots: int) -> list[BlockNumbers]:
    generator = np.random.default_rng(0)
    names = ["model.embed", *(f"model.layers.{n}" for n in range(blocks - 1))]
    values = 10.0 ** generator.normal(-3, 0.5, (snapshots, blocks))
    return [
        column(20 * (at + 1), dict(zip(names, row.tolist(), strict=True)))
        for at, row in enumerate(values)
    ]


def drawn(monkeypatch: pytest.MonkeyPatch, columns: list[BlockNumbers]) -> Any:
    """The figure of a picture, whose axes know what is drawn."""
    figures: list[Any] = []
    original = module._draw

    def draw(figure: Any, *args: Any) -> None:
        figures.append(figure)
        original(figure, *args)

    monkeypatch.setattr(module, "_draw", draw)
    depth_picture("model_depth/gradient_rms", "RMS", columns)
    return figures[0]


def texts(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def colors_of(figure: Any) -> NDArray[np.uint8]:
    """The colours of the cells. Shape (blocks, columns, 3)."""
    (image,) = figure.axes[0].images
    return np.asarray(np.rint(np.asarray(image.get_array()) * 255), dtype=np.uint8)


def test_cells_are_blocks_by_snapshots() -> None:
    columns = [column(1, {"a": 1.0, "b": math.nan}), column(2, {"a": math.inf, "b": 0.0})]
    blocks, cells = cells_of(columns)
    assert blocks == ["a", "b"]
    np.testing.assert_array_equal(cells, [[1.0, math.inf], [math.nan, 0.0]])


def test_blocks_of_an_earlier_session_come_last() -> None:
    columns = [column(1, {"old": 1.0, "b": 2.0}), column(2, {"a": 3.0, "b": 4.0, "none": math.nan})]
    blocks, cells = cells_of(columns)
    assert blocks == ["a", "b", "old"]
    np.testing.assert_array_equal(cells, [[math.nan, 3.0], [2.0, 4.0], [1.0, math.nan]])


@pytest.mark.parametrize("blocks", [1, 6, 128])
@pytest.mark.parametrize("snapshots", [1, 2, 51, 1000])
def test_the_file_of_a_picture_is_small(blocks: int, snapshots: int) -> None:
    pixels = depth_picture("model_depth/gradient_rms", "RMS", noise(blocks, snapshots)).pixels
    assert pixels.shape == (430, 740, 3)
    file = io.BytesIO()
    Png.fromarray(pixels).save(file, "PNG")
    assert file.tell() <= 60_000


def test_the_first_block_is_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, [column(1, {"h.0": 1e-4, "h.1": 1e-3, "h.2": 1e-2})])
    colors = colors_of(figure)[:, 0]
    scale = colormaps["viridis"].resampled(16)
    assert colors[0].tolist() == [round(255 * part) for part in scale(0.0)[:3]]
    assert colors[2].tolist() == [round(255 * part) for part in scale(1.0)[:3]]
    top, bottom = figure.axes[0].get_ylim()[::-1]
    assert top < bottom
    assert texts(figure.axes[0].yaxis) == ["h.0", "h.1", "h.2"]


def test_equal_factors_have_equal_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHADES", 256)
    figure = drawn(monkeypatch, [column(1, {f"h.{n}": 10.0**-n for n in range(5)})])
    shades = colormaps["viridis"].resampled(256)
    expected = [
        [round(255 * c) for c in shades(place)[:3]] for place in (1.0, 0.75, 0.5, 0.25, 0.0)
    ]
    assert np.abs(colors_of(figure)[:, 0].astype(int) - expected).max() <= 3


def test_few_of_many_blocks_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, noise(128, 51))
    names, steps = texts(figure.axes[0].yaxis), texts(figure.axes[0].xaxis)
    assert len(names) == 8 and names[0] == "embed" and names[-1] == "layers.126"
    assert len(steps) == 6 and steps[0] == "20" and steps[-1] == "1020"
    assert colors_of(figure).shape == (128, 51, 3)


@pytest.mark.parametrize("snapshots, columns", [(101, 101), (102, 51), (1000, 100)])
def test_of_many_snapshots_the_last_is_drawn(
    snapshots: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(monkeypatch, noise(6, snapshots))
    assert colors_of(figure).shape == (6, columns, 3)
    assert texts(figure.axes[0].xaxis)[-1] == str(20 * snapshots)


def test_what_is_no_number_has_a_colour_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a": 1e-3, "b": math.inf, "c": math.nan, "d": 0.0}
    figure = drawn(monkeypatch, [column(1, dict.fromkeys(values, 1e-2)), column(2, values)])
    assert [tuple(color) for color in colors_of(figure)[1:, 1]] == [RED, GREY, BLACK]
    legend = figure.axes[0].get_legend()
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {"0", "NaN or infinity", "no number"}
    assert drawn(monkeypatch, noise(6, 3)).axes[0].get_legend() is None


def test_a_scale_covers_eight_powers_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, [column(1, {"a": 1.0, "b": 1e-30, "c": 0.0})])
    assert [tuple(color) for color in colors_of(figure)[1:, 0]] == [BLACK, BLACK]
    assert texts_of_legend(figure) == ["below 1e-08"]


def texts_of_legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_a_picture_without_numbers_has_no_scale(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(monkeypatch, [column(1, {"a": value, "b": value})])
    assert not figure.axes[1].axison
    assert len(texts_of_legend(figure)) == 1


def test_nothing_but_unknown_blocks_can_be_drawn() -> None:
    assert cells_of([column(1, {"a": math.nan})])[0] == ["a"]
    assert depth_picture("t", "RMS", [column(1, {"a": math.nan})]).pixels.shape == (430, 740, 3)


@pytest.mark.parametrize("low", [-30.0, -4.4, -0.3, 3.0])
@pytest.mark.parametrize("length", [0.02, 0.2, 0.5, 1.0, 2.5, 8.0])
def test_a_scale_has_one_to_six_numbers(low: float, length: float) -> None:
    numbers = numbers_of_scale(low, low + length)
    assert 1 <= len(numbers) <= 6
    assert all(low - 0.01 <= math.log10(value) <= low + length + 0.01 for value in numbers)
    assert length < 0.5 or len(numbers) >= 3


def test_a_scale_of_one_number_has_a_length() -> None:
    assert scale_of(np.array([[1.0, math.inf, math.nan, 0.0]])) == (-0.1, 0.1)
    assert scale_of(np.array([[0.0, math.nan]])) is None


def test_short_names_are_unique() -> None:
    names = ["a.h.0", "b.h.0", "norm", "a.norm", "0", "1", "x.y.weight"]
    assert short_names(names) == ["a.h.0", "b.h.0", "norm", "a.norm", "0", "1", "weight"]
