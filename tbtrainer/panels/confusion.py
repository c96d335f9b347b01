"""Draws confusion matrices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.panel import PanelEvaluation
from tbtrainer.panels.pictures import HEIGHT_INCHES, INK, drawable_name, shortened, write_title
from tbtrainer.panels.plots import AS_IT_IS, name_axes, ticks, without_frame
from tbtrainer.panels.tasks import class_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 50
ROWS_OF_MANY = 30
# With more rows no numbers are written, because they would not fit into the cells.
MOST_WITH_NUMBERS = 10


def rows_of(classes: int) -> int:
    """Returns how many classes a picture has: all up to 50, and 30 of more."""
    return classes if classes <= MOST_ROWS else ROWS_OF_MANY


def confusion_height(rows: int, title: str) -> float:
    """Returns inches: enough for a line of text per row, and for what is above and below."""
    return max(HEIGHT_INCHES, 0.5 + 0.12 * len(title.splitlines()) + 0.09 * rows)


def names_of_axis(evaluation: PanelEvaluation, classes: Sequence[int]) -> list[str]:
    """Returns names of classes that can be drawn."""
    names = class_labels(evaluation, classes)
    return [drawable_name(name, index) for name, index in zip(names, classes, strict=True)]


def draw_confusion(
    figure: "Figure",
    counts: NDArray[np.int64],
    totals: NDArray[np.int64],
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
) -> None:
    """Draws how often each class, a row, was predicted as which class, a column.

    The colour of a cell is its share of the total of its row. Up to 10 rows have numbers.

    Args:
        figure: An empty one.
        counts: Shape (rows, columns).
        totals: How many have the class of each row, those of columns that are not shown included.
        row_names: A name per row.
        column_names: A name per column.
        title: One line or several.
    """
    shares = counts / np.maximum(totals, 1)[:, None]
    rows, columns = counts.shape
    write_title(figure, title)
    axes = figure.add_subplot()
    has_numbers = rows <= MOST_WITH_NUMBERS
    # Without numbers, the square root makes small shares visible.
    shade = shares if has_numbers else np.sqrt(shares)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto", **AS_IT_IS)
    axes.set_yticks(range(rows), [shortened(name, 16) for name in row_names])
    # A column is narrow, so long names are turned by 90 degrees.
    every = 1 if columns <= 25 else 2
    named = range((columns - 1) % every, columns, every)  # The last column always has its name.
    names = [shortened(column_names[column], 12) for column in named]
    rotation = 0 if columns * max(map(len, names)) <= 60 else 90
    axes.set_xticks(named, names)
    without_frame(axes)
    ticks(axes, length=0, size=6, rotation=rotation)
    name_axes(axes, "prediction", "label")
    if has_numbers:
        _write_numbers(axes, counts, shares)


def _write_numbers(axes: "Axes", counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    few = counts.shape[1] <= 4
    for (row, column), count in np.ndenumerate(counts):
        if count > 0:
            number = f"{count:,}\n{shares[row, column]:.0%}" if few else compact(int(count))
            axes.text(
                column,
                row,
                number,
                ha="center",
                va="center",
                fontsize=7.5 if few else 6.0,
                color="white" if shares[row, column] > 0.6 else INK,
            )


def compact(count: int) -> str:
    """Returns a count in at most four characters.

    Example:
        >>> [compact(n) for n in (999, 1234, 45678, 1234567)]
        ['999', '1.2k', '46k', '1.2M']
    """
    value = float(count)
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"
