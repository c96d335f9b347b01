"""What the plots of several panels have in common: colours, axes, points."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct for the colour-blind as well (M. Okabe, K. Ito, "Color universal design", 2008).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY = "#777777"
# With more points than this, their density is shown.
MOST_POINTS = 500


def plain(axes: "Axes") -> None:
    """Gives axes small numbers, no frame and the background of the picture."""
    axes.set_facecolor("none")
    axes.tick_params(labelsize=6.5, length=2, width=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_fontsize(7)
    axes.yaxis.label.set_fontsize(7)


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
    if len(points[0]) <= MOST_POINTS:
        axes.scatter(
            *points, s=5 if len(points[0]) > 100 else 10, color=BLUE, alpha=0.5, linewidths=0
        )
    else:
        extent = (*across, *upward)
        axes.hexbin(
            *points,
            gridsize=(34, 20),
            extent=extent,
            mincnt=1,
            bins="log",
            cmap="Blues",
            vmin=0.4,  # A single point is light, and not white.
        )
    axes.set(xlim=across, ylim=upward)
