"""`PredictedAgainstTrue` and `Residuals`: the predictions of a regression and their errors."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tbtrainer.panels.counting import examples_line
from tbtrainer.panels.panel import Kept, KeptOfAllRanks, Panel, PanelBatch, PanelEvaluation
from tbtrainer.panels.pictures import picture, write_title
from tbtrainer.panels.plots import (
    DASHES,
    GREY,
    RED,
    legend_above,
    limits,
    plain,
    show_line,
    show_points,
)
from tbtrainer.panels.regression_fit import RegressionFit, finite_points, regression_kept
from tbtrainer.panels.tasks import is_regression, names_regression
from tbtrainer.records import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
# The mean residual is that of groups of at least so many examples, at most so many groups.
GROUP_EXAMPLES = 20
MOST_GROUPS = 10


class _RegressionPlot(Panel, ABC):
    """A plot of predictions and true values, with R² and RMSE of all examples in its title.

    A sample of the examples is drawn: as points, or as density if there are more than 500.
    """

    def applies(self, evaluation: PanelEvaluation) -> bool:
        """Returns whether a number is predicted for each example."""
        return is_regression(evaluation)

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns predictions and labels, and the sums of the batch."""
        return regression_kept(batch)

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> list[Image]:
        """Returns the picture; none without a finite example, or if it is a classifier's.

        A model with one logit whose configuration does not say what it is for may be a classifier.
        Then all labels are 0 or 1.
        """
        fit = RegressionFit.of(kept.totals)
        points = finite_points(kept.examples)
        is_classifier = fit is not None and fit.is_binary and not names_regression(evaluation)
        if fit is None or is_classifier or len(points[0]) == 0:
            return []
        title = f"R² {fit.r_squared:.3f}, RMSE {fit.rmse:.4g}, "
        title += examples_line(fit.examples, kept.seen)
        if len(points[0]) < fit.examples:
            title += f", {len(points[0]):,} of them shown"

        def draw(figure: "Figure") -> None:
            write_title(figure, title)
            self.plot(figure.add_subplot(), points)

        return [picture(evaluation.tag(self.name), draw)]

    @abstractmethod
    def plot(self, axes: "Axes", points: Points) -> None:
        """Draws predictions and true values, each of shape (points,)."""


class PredictedAgainstTrue(_RegressionPlot):
    """Shows predictions against true values, with the line on which they are equal."""

    name = "predicted_against_true"

    def plot(self, axes: "Axes", points: Points) -> None:
        """Draws predictions upward, true values across."""
        predicted, true = points
        ends = limits(np.concatenate(points))
        show_points(axes, (true, predicted), ends, ends)
        show_line(axes, ends, ends, RED)
        plain(axes, "true", "predicted")


class Residuals(_RegressionPlot):
    """Shows predicted minus true value against the prediction, with the mean along it.

    Where the mean is not near zero, the error is systematic. Where the points are further apart,
    the errors are larger.
    """

    name = "residuals"

    def plot(self, axes: "Axes", points: Points) -> None:
        """Draws residuals upward, predictions across."""
        predicted, true = points
        residual = predicted - true
        ends, sides = limits(np.concatenate([residual, -residual])), limits(predicted)
        show_points(axes, (predicted, residual), sides, ends)
        show_line(axes, sides, (0, 0), GREY, linestyle=DASHES, zorder=3)
        groups = min(MOST_GROUPS, len(predicted) // GROUP_EXAMPLES)
        if groups > 1:
            parts = np.array_split(np.argsort(predicted, kind="stable"), groups)
            across = [predicted[part].mean() for part in parts]
            mean = [residual[part].mean() for part in parts]
            style = {"linewidth": 1, "marker": "o", "markersize": 2}
            show_line(axes, across, mean, RED, label="mean of neighbours", **style)
            legend_above(axes)
        plain(axes, "predicted", "predicted − true")
