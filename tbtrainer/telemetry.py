"""What is observed in the training loop: built once the model is wrapped, asked at each step."""

import logging
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.gradient_norms import GradientNorms, GradientNormSummary
from tbtrainer.observers.histograms import HistogramRecorder
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.run import RunWriter
from tbtrainer.sharding import failed_anywhere, parameter_table
from tbtrainer.sharding.parameter_names import clean_name

logger = logging.getLogger(__name__)


class Telemetry:
    """Gradient norms of every step and histograms of the steps that are due.

    Every method that measures is called on every rank at the same steps; only the rank with a
    writer writes.

    Args:
        model: The model as it is trained: wrapped, sharded, compiled.
        arguments: What is shown.
        schedule: At which steps the histograms are taken.
        writer: Takes the records; `None` on every rank but world rank zero.
        device: Where statistics are kept until a logging step.
        max_grad_norm: The norm gradients are clipped to; 0 means no clipping.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TensorBoardArguments,
        schedule: SnapshotSchedule,
        writer: RunWriter | None,
        device: torch.device,
        max_grad_norm: float,
        isolation: Isolation,
    ) -> None:
        self._schedule = schedule
        self._targets = arguments.histogram_targets
        self._writer = writer
        writes = writer is not None
        everything = parameter_table(model, is_world_process_zero=writes)
        shown = everything.select(arguments.histogram_include, arguments.histogram_exclude)
        self._everything, self._shown = everything, shown
        self._isolation = isolation
        self._last_gradients = self._last_parameters = -1
        failure: Exception | None = None
        try:
            self._norms = GradientNorms(
                everything, arguments.norm_detail, max_grad_norm, device, isolation
            )
            self._histograms = HistogramRecorder(
                shown, writer, arguments.histogram_buckets, device, isolation
            )
        except Exception as error:
            failure = error
        # A rank that did without would be missed in every collective.
        if everything.needs_reduction and failed_anywhere(failure is not None):
            raise failure or RuntimeError("another rank could not; it says why")
        if failure is not None:
            raise failure

    @torch.no_grad()
    def observe_gradients(self, step: int, loss_scale: Tensor | None = None) -> None:
        """Reads the gradients of optimizer step `step`, accumulated, reduced and not yet clipped.

        Args:
            step: The step these gradients belong to, counted from 1.
            loss_scale: What they are still multiplied by under float16, a scalar tensor.
        """
        if step == self._last_gradients:
            return
        self._last_gradients = step
        gradients: list[Tensor | None] | None = None
        with self._isolation.guard("list the gradients"):
            gradients = self._everything.gradients()
        self._norms.accumulate(gradients, loss_scale)
        if "gradients" in self._targets and self._schedule.is_due(step):
            chosen = self._shown.selected(gradients or [None] * len(self._everything.rows))
            self._histograms.record(
                "gradients", step, lambda: self._shown.measurable("gradient", chosen), loss_scale
            )

    @torch.no_grad()
    def observe_parameters(self, step: int, training_ends: bool = False) -> None:
        """Reads the parameters after optimizer step `step`, if they are due and not yet read.

        Args:
            step: Optimizer steps taken so far.
            training_ends: No step will follow, so a last snapshot is due whatever the schedule.
        """
        due = self._schedule.is_due(step) or (training_ends and self._schedule.every > 0)
        if "parameters" not in self._targets or step == self._last_parameters or not due:
            return
        self._last_parameters = step
        self._histograms.record("parameters", step, self._shown.parameters)

    def log_gradient_norms(self, step: int) -> None:
        """Writes the norms of the window that ends with `step`, and begins another."""
        summary = self._norms.summary()
        if summary is not None and self._writer is not None:
            for tag, value in norm_scalars(summary).items():
                self._writer.add_scalar(tag, value, step)

    def drain(self) -> None:
        """Waits until every snapshot taken so far has reached the writer."""
        self._histograms.drain()

    def close(self) -> None:
        """Ends the thread that writes histograms, after the last of them."""
        self._histograms.close()


def norm_scalars(summary: GradientNormSummary) -> dict[str, float]:
    """Returns the scalars of a window by tag."""
    scalars: dict[str, float] = {"train/nonfinite_gradients": float(summary.nonfinite_steps)}
    if summary.steps == 0:
        return scalars
    scalars.update({f"grad_norm/{name}": value for name, value in summary.rms.items()})
    if summary.total is not None and summary.maximum is not None:
        scalars["grad_norm/total"] = summary.total
        scalars["train/grad_norm_max"] = summary.maximum
    if summary.clipped is not None and summary.clip_fraction is not None:
        scalars["train/grad_norm_clipped"] = summary.clipped
        scalars["train/grad_clip_fraction"] = summary.clip_fraction
    return scalars


def warn_of_patterns_without_match(arguments: TensorBoardArguments, names: Iterable[str]) -> None:
    """Warns of each pattern that matches no parameter, and names some that exist.

    Args:
        arguments: The arguments with `histogram_include` and `histogram_exclude`.
        names: Parameter names of the model.
    """
    known = [clean_name(name) for name in names]
    for field in ("histogram_include", "histogram_exclude"):
        for pattern in getattr(arguments, field) or []:
            if not any(re.search(pattern, name) for name in known):
                some = ", ".join(known[:: max(1, len(known) // 4)][:4])
                logger.warning(
                    "%s=%r matches no parameter of this model; it has, among %d: %s.",
                    field,
                    pattern,
                    len(known),
                    some,
                )
