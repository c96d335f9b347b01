"""The report on a bad step or evaluation, as text, as Markdown and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Cause = Literal["loss", "backward", "weights", "loss_scale", "evaluation"]
# Names of parameters that a card lists.
_MOST_NAMES = 10
# Names in each list of a JSON line. A model with experts has tens of thousands of parameters, and
# the lines of all reports of a run have to fit into the file, whose limit is 1 MiB.
_MOST_NAMES_OF_LINE = 128


@dataclass(frozen=True)
class HistoryStep:
    """A good step before a bad one.

    Attributes:
        step: Its number.
        loss: Mean over the ranks; `None` if it is not known.
        grad_norm: Norm of all gradients together, before clipping; `None` if it is not known.
        parameter_grad_norm: Norm of the gradient of the report's `nearest_to_loss`; `None` if that
            is `None`, or if the step was too long ago.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    parameter_grad_norm: float | None


@dataclass(frozen=True)
class HealthReport:
    """What was not finite at a training step or in an evaluation.

    Attributes:
        cause: What was not finite first. `"loss"`: the loss. `"backward"`: a gradient, but not the
            loss. `"weights"`: weights that were damaged before this step. `"loss_scale"`: gradients
            that overflow although the loss scale is below 1. `"evaluation"`: the loss of evaluation
            batches.
        bad_step: The step; in an evaluation the number of steps taken.
        loss: The loss of the step, NaN if it was not finite on some rank; `None` if not known.
        loss_rank: The last rank whose loss was not finite; `None` if there is none.
        learning_rates: At the step, by parameter group.
        bad_gradients: Parameters whose gradient was not finite, in the order of the model.
        damaged_weights: Parameters that hold a NaN or an infinity when the report is made; with
            `damaged_since` 0, those that did before the first step.
        damaged_since: The step that damaged them; 0 if they were damaged before the first step of
            this training; `None` if none is damaged.
        applied: Whether the optimizer step was applied to the weights.
        action: `"stop"` or `"raise"` if `nonfinite_action` ended the training; else `None`.
        first_module: The first module whose output was not finite although its inputs were, in a
            second forward pass of the same data; `None` if there was none.
        checked_forward: Whether a second forward pass was made.
        dataset: The evaluation's dataset, if there are several.
        batches: How many batches of the evaluation were not finite; 0 for a training step.
        history: Up to 16 good steps before.
        suppressed: Bad steps since the last report that were not reported one by one.
        ranks: How many ranks train.
    """

    cause: Cause
    bad_step: int
    loss: float | None = None
    loss_rank: int | None = None
    learning_rates: Mapping[str, float] | None = None
    bad_gradients: Sequence[str] = ()
    damaged_weights: Sequence[str] = ()
    damaged_since: int | None = None
    applied: bool = True
    action: str | None = None
    first_module: str | None = None
    checked_forward: bool = False
    dataset: str | None = None
    batches: int = 0
    history: Sequence[HistoryStep] = ()
    suppressed: int = 0
    ranks: int = 1

    @property
    def nearest_to_loss(self) -> str | None:
        """The bad gradient nearest to the loss: a NaN spreads from there towards the input."""
        return self.bad_gradients[-1] if self.bad_gradients else None

    @property
    def message(self) -> str:
        """What happened, one sentence per fact."""
        if self.cause == "evaluation":
            return _evaluation_message(self)
        return " ".join(filter(None, (_cause(self), _forward(self), _weights(self), _step(self))))

    def values(self) -> dict[str, Any]:
        """Returns the report for `health.jsonl`: its attributes, the message and `nearest_to_loss`.

        The learning rates are an empty object if they are not known. Of many names only the 128
        bad gradients nearest to the loss and the first 128 damaged weights are listed. How many
        there are is in `bad_gradient_count` and `damaged_weight_count`.
        """
        fields = asdict(self)
        return {
            "cause": fields.pop("cause"),
            "bad_step": fields.pop("bad_step"),
            "message": self.message,
            "nearest_to_loss": self.nearest_to_loss,
            **fields,
            "learning_rates": dict(self.learning_rates or {}),
            "bad_gradients": self.bad_gradients[-_MOST_NAMES_OF_LINE:],
            "damaged_weights": self.damaged_weights[:_MOST_NAMES_OF_LINE],
            "bad_gradient_count": len(self.bad_gradients),
            "damaged_weight_count": len(self.damaged_weights),
        }

    def card(self) -> str:
        """Returns the report as Markdown, for TensorBoard's text dashboard."""
        parts = [f"**{self.message}**"]
        if self.learning_rates:
            rates = ", ".join(f"{name} {rate:.4g}" for name, rate in self.learning_rates.items())
            parts.append(f"Learning rates: {rates}")
        if self.bad_gradients:
            parts.append(f"Gradients that are not finite: {_listed(self.bad_gradients)}")
        if self.damaged_weights:
            parts.append(f"Weights that are not finite: {_listed(self.damaged_weights)}")
        if self.history:
            parts.append(_history_table(self))
        if self.suppressed:
            parts.append(f"Bad steps since the last report: {self.suppressed}")
        return "\n\n".join(parts)


def _cause(report: HealthReport) -> str:
    step, nearest = report.bad_step, report.nearest_to_loss
    if report.loss_rank is not None:
        rank = f" on rank {report.loss_rank}" if report.ranks > 1 else ""
        return f"The loss itself was not finite at step {step}{rank}."
    at = "" if nearest is None else f"; the one nearest to the loss is that of {nearest}"
    if report.cause == "loss_scale":
        return f"Gradients of step {step} overflowed although the loss scale is below 1{at}."
    if report.cause == "weights":
        return f"Gradients of step {step} were not finite{at}."
    if nearest is None:
        return f"NaN or infinity began in the backward pass of step {step}."
    return (
        f"NaN or infinity began in the backward pass of step {step} at {nearest}, the parameter "
        "nearest to the loss whose gradient is not finite."
    )


def _forward(report: HealthReport) -> str:
    if not report.checked_forward:
        return ""
    if report.first_module is not None:
        return (
            f"In the forward pass, {report.first_module} is the first module whose output is not "
            "finite although its inputs are."
        )
    no_module = (
        "In a second forward pass of the same data, no module turned finite inputs into an output "
        "that is not finite."
    )
    if report.loss_rank is None:
        return no_module
    return f"{no_module} Look at the batch itself, and at a loss function outside of the model."


def _weights(report: HealthReport) -> str:
    if not report.damaged_weights:
        return ""
    since = (
        "since before the first step of this training"
        if report.damaged_since == 0
        else f"since step {report.damaged_since}"
    )
    count = len(report.damaged_weights)
    others = f" and {count - 1} other parameter(s)" if count > 1 else ""
    return f"The weights are already damaged {since}: {report.damaged_weights[0]}{others}."


def _step(report: HealthReport) -> str:
    if report.applied:
        return "The step was applied."
    if report.action is not None:
        return f"The step was not applied: nonfinite_action={report.action!r} ended the training."
    skipped = "The step was not applied: the loss scaler or DeepSpeed skipped it."
    if report.cause != "backward":
        return skipped
    return f"{skipped} A single step of this kind can be an overflow of the loss scale."


def _evaluation_message(report: HealthReport) -> str:
    of = f" of {report.dataset}" if report.dataset else ""
    return (
        f"In the evaluation{of} after step {report.bad_step}, the loss of {report.batches} "
        "batch(es) was not finite."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES])
    return shown + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")


def _history_table(report: HealthReport) -> str:
    parameter = f" gradient norm of `{report.nearest_to_loss}` |" if report.nearest_to_loss else ""
    lines = [
        "The steps before:",
        "",
        f"| step | loss | norm of all gradients |{parameter}",
        "|---|---|---|" + ("---|" if parameter else ""),
    ]
    for past in report.history:
        cells = [str(past.step), _number(past.loss), _number(past.grad_norm)]
        cells += [_number(past.parameter_grad_norm)] if parameter else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
