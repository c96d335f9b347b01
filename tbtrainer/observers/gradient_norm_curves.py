"""Shows gradient norms as curves: in total, and per block or per parameter."""

from tbtrainer import tags
from tbtrainer.observers.norm_summary import GradientNormSummary, NormGroups
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.step_measurements import StepMeasurements
from tbtrainer.observers.training import Training
from tbtrainer.records import Scalar


class GradientNormCurves(Observer):
    """Shows the gradient norms of all steps since the last logging step, before clipping.

    Args:
        measurements: Measures the norms.
    """

    def __init__(self, measurements: StepMeasurements) -> None:
        self._measurements = measurements
        self._groups: NormGroups | None = None
        self._detail = ""
        self._max_norm = 0.0

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Groups the parameters."""
        self._detail = training.arguments.norm_detail
        self._max_norm = training.max_grad_norm
        self._groups = NormGroups(training.parameters.rows, self._detail)
        return ()

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the norms of the window that ends with `step`."""
        window, norms = self._measurements.window, self._measurements.norms
        if self._groups is None or window is None or norms is None:
            return []
        summary = self._groups.summary(window, norms.missing, self._max_norm)
        return [] if summary is None else norm_scalars(summary, self._detail)

    def close(self) -> None:
        """Releases the parameters."""
        self._groups = None


def norm_scalars(summary: GradientNormSummary, detail: str) -> list[Scalar]:
    """Returns the scalars that show the norms of a window.

    Args:
        summary: The norms.
        detail: Which norms `summary.rms` holds: `"total"` (none), `"block"` or `"parameter"`.
    """
    in_total = {
        tags.GRAD_NORM_TOTAL: summary.total,
        tags.GRAD_NORM_MAX: summary.maximum,
        tags.GRAD_NORM_CLIPPED: summary.clipped,
        tags.GRAD_NORM_CLIP_FRACTION: summary.clip_fraction,
    }
    scalars = [Scalar(tag.name, norm) for tag, norm in in_total.items() if norm is not None]
    family = tags.GRAD_NORM_PER_BLOCK if detail == "block" else tags.GRAD_NORM_PER_PARAMETER
    return scalars + [Scalar(family.of(name), norm) for name, norm in summary.rms.items()]
