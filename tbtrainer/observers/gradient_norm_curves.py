"""Shows gradient norms as curves: in total, and per block or per parameter."""

from tbtrainer import tags
from tbtrainer.isolation import Isolation
from tbtrainer.observers.gradient_norms import GradientNorms, GradientNormSummary
from tbtrainer.observers.observer import Gradients, Observer
from tbtrainer.observers.training import Training
from tbtrainer.records import Scalar


class GradientNormCurves(Observer):
    """Shows the gradient norms of all steps since the last logging step, before clipping.

    `GradientNorms` measures them. Under sharding each logging step is a collective, and in a long
    window other steps can be one too.

    Args:
        isolation: What happens to an error in a measurement.
    """

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self._norms: GradientNorms | None = None
        self._detail = ""

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Allocates the memory for the norms of a window."""
        self._detail = training.arguments.norm_detail
        self._norms = GradientNorms(
            training.parameters,
            self._detail,
            training.max_grad_norm,
            training.device,
            self._isolation,
        )
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Keeps the norms on the device, without waiting for it."""
        if self._norms is not None:
            # Also without gradients, because all ranks must reduce the same number of steps.
            parts = None if gradients is None else gradients.parts
            loss_scale = None if gradients is None else gradients.loss_scale
            self._norms.accumulate(parts, loss_scale)
        return ()

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the norms of the window that ends with `step`, and begins a new window."""
        summary = None if self._norms is None else self._norms.summary()
        return [] if summary is None else norm_scalars(summary, self._detail)

    def close(self) -> None:
        """Frees the memory for the norms."""
        self._norms = None


def norm_scalars(summary: GradientNormSummary, detail: str) -> list[Scalar]:
    """Returns the scalars that show the norms of a window.

    Args:
        summary: The norms.
        detail: Which norms `summary.rms` holds: `"total"` (none), `"block"` or `"parameter"`.
    """
    scalars = [Scalar(tags.NONFINITE_GRADIENTS.name, summary.nonfinite_steps)]
    if summary.steps == 0:
        return scalars
    in_total = {
        tags.GRAD_NORM_TOTAL: summary.total,
        tags.GRAD_NORM_MAX: summary.maximum,
        tags.GRAD_NORM_CLIPPED: summary.clipped,
        tags.GRAD_NORM_CLIP_FRACTION: summary.clip_fraction,
    }
    scalars += [Scalar(tag.name, norm) for tag, norm in in_total.items() if norm is not None]
    family = tags.GRAD_NORM_PER_BLOCK if detail == "block" else tags.GRAD_NORM_PER_PARAMETER
    return scalars + [Scalar(family.of(name), norm) for name, norm in summary.rms.items()]
