"""What the plots of several panels have in common: colours, axes, points.

Everything is given to matplotlib explicitly, because a default would follow a user's settings.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.pictures import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct for the colour-blind as well (M. Okabe, K. Ito, "Color universal design", 2008).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY = "#777777"
# With more points than this, their density is shown.
MOST_POINTS = 500
# A line is made of dashes and gaps of this length, in points.
DASHES = (0, (3.0, 1.5))
NAME_SIZE, NUMBER_SIZE = 7.0, 6.5
_MOST_TICKS = 6
# Of `imshow`: each value is a cell of one colour, the first row at the top.
AS_IT_IS: Mapping[str, Any] = {
    "interpolation": "nearest",
    "interpolation_stage": "data",
    "origin": "upper",
    "resample": True,
}


def plain(axes: "Axes", across: str = "", upward: str = "") -> None:
    """Gives axes small numbers, two thin lines, and no background of their own.

    The axes have limits before.

    Args:
        axes: What to change.
        across: Name of the horizontal axis.
        upward: Name of the vertical axis.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    without_frame(axes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(_MOST_TICKS, steps=(1, 2, 2.5, 5, 10)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    ticks(axes, length=2.0)
    for side in ("left", "bottom"):
        axes.spines[side].set(visible=True, edgecolor=INK, linewidth=0.6)
    name_axes(axes, across, upward)


def without_frame(axes: "Axes") -> None:
    """Takes lines, small marks and background away from axes."""
    axes.set_facecolor("none")
    axes.set_axisbelow("line")
    axes.grid(visible=False, which="both")
    axes.minorticks_off()
    for spine in axes.spines.values():
        spine.set_visible(False)


def name_axes(axes: "Axes", across: str, upward: str) -> None:
    """Writes the names of the axes."""
    given: dict[str, Any] = {"loc": "center", "labelpad": 2.5, "fontsize": NAME_SIZE, "color": INK}
    axes.set_xlabel(across, **given)
    axes.set_ylabel(upward, **given)


def ticks(axes: "Axes", length: float, size: float = NUMBER_SIZE, rotation: float = 0) -> None:
    """Sets marks and texts at the left and at the bottom, whose places are set before.

    Args:
        axes: What to change.
        length: Of the marks, in points.
        size: Of the texts, in points.
        rotation: Of the texts at the bottom, in degrees.
    """
    axes.tick_params(
        which="both",
        direction="out",
        length=length,
        width=0.5,
        pad=2.0,
        color=INK,
        labelsize=size,
        labelcolor=INK,
    )
    axes.tick_params(axis="x", bottom=True, top=False, labelbottom=True, labeltop=False)
    axes.tick_params(axis="y", left=True, right=False, labelleft=True, labelright=False)
    for text in axes.get_xticklabels():
        text.set(ha="center", va="top", rotation=rotation)
    for text in axes.get_yticklabels():
        text.set(ha="right", va="center")


def number(value: float) -> str:
    """Returns the text of a number of an axis.

    Example:
        >>> [number(value) for value in (-0.30000000000000004, 1990.0, 2.5e-07, -0.0)]
        ['−0.3', '1990', '2.5e−07', '0']
    """
    return f"{value + 0.0:.10g}".replace("-", "\N{MINUS SIGN}")


def legend_above(axes: "Axes") -> None:
    """Names what has a label, in a row above the axes, where it covers nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        fontsize=NUMBER_SIZE,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.0,
        borderpad=0.2,
        columnspacing=1.2,
        handlelength=1.2,
        handleheight=0.7,
        handletextpad=0.5,
        labelspacing=0.4,
        markerscale=1.0,
        numpoints=1,
    )


def limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the ends of an axis that shows all values, with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.1 * abs(low) or 1.0
    return low - margin, high + margin


def show_points(
    axes: "Axes",
    points: tuple[NDArray[np.float64], NDArray[np.float64]],
    across: tuple[float, float],
    upward: tuple[float, float],
) -> None:
    """Draws points, or their density if there are more than `MOST_POINTS`.

    Args:
        axes: What to draw on.
        points: Positions across and upward, each of shape (points,).
        across: The ends of the horizontal axis.
        upward: The ends of the vertical axis.
    """
    from matplotlib.markers import MarkerStyle

    # First, because the limits that matplotlib finds itself depend on its settings.
    axes.set(xlim=across, ylim=upward)
    if len(points[0]) <= MOST_POINTS:
        size = 5 if len(points[0]) > 100 else 10
        dot = MarkerStyle("o", fillstyle="full")
        axes.scatter(*points, s=size, color=BLUE, alpha=0.5, linewidths=0, marker=dot)
    else:
        extent = (*across, *upward)
        axes.hexbin(
            *points,
            gridsize=(40, 12),
            extent=extent,
            mincnt=1,
            bins="log",
            cmap="Blues",
            vmin=0.4,  # A single point is light, and not white.
            linewidths=0.3,
            edgecolors="face",
        )


def show_line(axes: "Axes", across: Any, upward: Any, color: str, **style: Any) -> None:
    """Draws a line through points, with marks only if `style` has a `marker`."""
    solid: dict[str, Any] = {"linestyle": "-", "linewidth": 0.8, "marker": "none", "zorder": 2.0}
    solid |= {"solid_capstyle": "butt", "solid_joinstyle": "round"}
    solid |= {"dash_capstyle": "butt", "dash_joinstyle": "round", "fillstyle": "full"}
    solid |= {"markerfacecolor": color, "markeredgecolor": color, "markeredgewidth": 1.0}
    axes.plot(across, upward, color=color, **{**solid, **style})
