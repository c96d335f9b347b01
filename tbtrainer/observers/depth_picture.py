"""Draws the blocks of a model over the snapshots of a training, in colours."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.panels.pictures import INK, picture, shortened, write_title
from tbtrainer.panels.plots import (
    AS_IT_IS,
    NUMBER_SIZE,
    legend_above,
    name_axes,
    number,
    ticks,
    without_frame,
)
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# With more snapshots, as after a resume with another schedule, some are left out.
MOST_COLUMNS = 101
# With more blocks only some have their names.
_MOST_NAMES, _NAMES_OF_MANY, _MOST_STEPS = 14, 8, 6
# The scale covers at most so many powers of ten below the largest number.
_MOST_DECADES = 8.0
_COLORS = "viridis"
# As many as can be told apart. With more, the file of the picture is larger.
_SHADES = 16
# Colours that the scale does not have, and what they mean.
_NOT_FINITE, _NO_NUMBER, _ZERO = (0.84, 0.0, 0.0), (0.8, 0.8, 0.8), (0.0, 0.0, 0.0)


def depth_picture(tag: str, title: str, columns: Sequence[BlockNumbers]) -> Image:
    """Returns the picture of a target.

    Args:
        tag: Of the picture.
        title: What the colours show.
        columns: The snapshots so far, at least one, by step. Of more than `MOST_COLUMNS` every
            second is drawn, or every third, and so on, and always the last.
    """
    every = math.ceil(len(columns) / MOST_COLUMNS)
    drawn = columns[::-1][::every][::-1]
    blocks, cells = cells_of(drawn)
    steps = [column.step for column in drawn]
    return picture(tag, lambda figure: _draw(figure, title, blocks, steps, cells))


def cells_of(columns: Sequence[BlockNumbers]) -> tuple[list[str], Floats]:
    """Returns the blocks of a picture, and the numbers of its cells.

    The blocks are in the order of the newest snapshot. Those that it does not have come last, and
    those without any number are left out.

    Args:
        columns: At least one.

    Returns:
        The blocks, and float64 of shape (blocks, columns): infinity where an element was not
        finite, NaN where a block has no number.
    """
    names = dict.fromkeys(name for column in reversed(columns) for name in column.blocks)
    place = {name: row for row, name in enumerate(names)}
    cells = np.full((len(names), len(columns)), np.nan)
    for at, column in enumerate(columns):
        cells[[place[name] for name in column.blocks], at] = column.shown
    has_number = ~np.isnan(cells).all(axis=1)
    has_number |= not has_number.any()
    return [name for name in names if has_number[place[name]]], cells[has_number]


def short_names(blocks: Sequence[str]) -> list[str]:
    """Returns names of blocks without the beginnings that tell nothing apart.

    A number keeps the name before it.

    Example:
        >>> short_names(["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.11"])
        ['embeddings', 'layer.0', 'layer.11']
        >>> short_names(["encoder.block.0", "decoder.block.0"])
        ['encoder.block.0', 'decoder.block.0']
    """
    split = [name.split(".") for name in blocks]
    ends = Counter(
        ".".join(parts[-length:]) for parts in split for length in range(1, len(parts) + 1)
    )
    names = []
    for parts in split:
        least = min(2 if parts[-1].isdigit() else 1, len(parts))
        lengths = range(least, len(parts) + 1)
        candidates = [".".join(parts[-length:]) for length in lengths]
        names.append(next((name for name in candidates if ends[name] == 1), candidates[-1]))
    return names


def scale_of(cells: Floats) -> tuple[float, float] | None:
    """Returns the decimal logarithms at the ends of the scale; `None` without a positive number.

    Args:
        cells: As `cells_of` returns them.
    """
    positive = cells[np.isfinite(cells) & (cells > 0)]
    if not len(positive):
        return None
    low, high = (float(end) for end in np.log10([positive.min(), positive.max()]))
    low = max(low, high - _MOST_DECADES)
    # A scale without a length has no colours.
    return (low, high) if high - low > 0.02 else (low - 0.1, high + 0.1)


def _draw(
    figure: "Figure", title: str, blocks: Sequence[str], steps: Sequence[int], cells: Floats
) -> None:
    write_title(figure, title)
    axes, legend = figure.subplots(1, 2, width_ratios=(32, 1))
    scale = scale_of(cells)
    colors, meanings = _colors(cells, scale)
    axes.imshow(colors, aspect="auto", **AS_IT_IS)
    without_frame(axes)
    rows = _places(len(blocks), _MOST_NAMES, _NAMES_OF_MANY)
    names = short_names(blocks)
    axes.set_yticks(rows, [shortened(names[row], 18) for row in rows])
    shown = _places(len(steps), _MOST_STEPS, _MOST_STEPS)
    axes.set_xticks(shown, [number(steps[place]) for place in shown])
    name_axes(axes, "step", "")
    ticks(axes, length=2.0, size=6.0)
    _name_colors(axes, meanings)
    _draw_scale(legend, scale)


def _colors(
    cells: Floats, scale: tuple[float, float] | None
) -> tuple[Floats, dict[str, tuple[float, float, float]]]:
    """Returns the colours of the cells, and what those mean that the scale does not have."""
    from matplotlib import colormaps

    low, high = scale or (0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = (np.log10(cells) - low) / (high - low)
    shades = colormaps[_COLORS].resampled(_SHADES)
    colors: Floats = shades(np.nan_to_num(np.clip(places, 0, 1)))[..., :3]
    is_small = np.isfinite(cells) & ~(places >= -1e-9)
    small = "0" if not (cells[is_small] > 0).any() else f"below {10**low:.0e}"
    special = {
        small: (is_small, _ZERO),
        "NaN or infinity": (np.isinf(cells), _NOT_FINITE),
        "no number": (np.isnan(cells), _NO_NUMBER),
    }
    for chosen, color in special.values():
        colors[chosen] = color
    return colors, {name: color for name, (chosen, color) in special.items() if chosen.any()}


def _name_colors(axes: "Axes", meanings: dict[str, tuple[float, float, float]]) -> None:
    from matplotlib.patches import Rectangle

    if meanings:
        for name, color in meanings.items():
            style: Any = {"facecolor": color, "edgecolor": INK, "linewidth": 0.3, "fill": True}
            axes.add_patch(Rectangle((0, 0), 0, 0, label=name, **style))
        legend_above(axes)


def _draw_scale(axes: "Axes", scale: tuple[float, float] | None) -> None:
    """Draws the colours from the largest number, at the top, to the smallest."""
    if scale is None:
        axes.set_axis_off()
        return
    low, high = scale
    colors, _ = _colors(10 ** np.linspace(high, low, _SHADES)[:, None], scale)
    axes.imshow(colors, aspect="auto", extent=(0, 1, low, high), **AS_IT_IS)
    without_frame(axes)
    numbers = numbers_of_scale(low, high)
    axes.set_yticks([math.log10(value) for value in numbers], [f"{n:.0e}" for n in numbers])
    axes.set_xticks([])
    axes.set_ylim(low, high)
    ticks(axes, length=2.0, size=NUMBER_SIZE)
    axes.tick_params(axis="y", left=False, right=True, labelleft=False, labelright=True)
    for text in axes.get_yticklabels():
        text.set(ha="left", va="center")


def numbers_of_scale(low: float, high: float) -> list[float]:
    """Returns the numbers beside a logarithmic scale: up to six, and three if they fit.

    They are powers of ten, or every second of them, or else multiples of these.

    Args:
        low: Decimal logarithm of the lower end.
        high: Of the upper end.

    Example:
        >>> numbers_of_scale(-5.5, -1.2), numbers_of_scale(-3.2, -2.4)
        ([1e-05, 0.0001, 0.001, 0.01], [0.001, 0.002])
    """
    powers = range(math.ceil(low), math.floor(high) + 1)
    if len(powers) >= 3:
        return [float(f"1e{power}") for power in powers[:: math.ceil(len(powers) / 6)]]
    found: list[float] = []
    for digits in ((1, 3), (1, 2, 5), range(1, 10)):
        candidates = [
            float(f"{digit}e{power}")
            for power in range(math.floor(low), math.floor(high) + 1)
            for digit in digits
        ]
        found = [value for value in candidates if low <= math.log10(value) <= high]
        if len(found) >= 3:
            break
    found = found or [float(f"{10 ** ((low + high) / 2):.2g}")]
    return found[:: math.ceil(len(found) / 6)]


def _places(count: int, most: int, of_many: int) -> list[int]:
    """Returns which of some rows or columns get a text: all, or some with equal distances."""
    if count <= most:
        return list(range(count))
    places: Any = np.linspace(0, count - 1, of_many).round()
    return [int(place) for place in places]
