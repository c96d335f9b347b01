"""Every tag that tbtrainer writes: its kind, its unit, what it means and when it is written.

The writers take names and descriptions from here, and the table in docs/tags.md is printed by
`python -m tbtrainer.tags`. What `Trainer` itself logs keeps its stock tags, in `train/`, `eval/`
and `test/`. No tag declared here is in these groups.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["scalar", "histogram", "text"]


@dataclass(frozen=True)
class Tag:
    """A tag, or a family of tags that differ in a name.

    Attributes:
        name: The tag. A part in angle brackets, such as `<block>`, stands for a name.
        kind: Which dashboard of TensorBoard shows it.
        unit: Of the values; empty for text and for numbers without a unit.
        description: One sentence.
        when: At which steps it is written.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    when: str

    def of(self, name: str) -> str:
        """Returns the tag of one member of the family.

        Example:
            >>> GRADIENTS.of("lm_head.weight")
            'gradients/lm_head.weight'
        """
        return re.sub(r"<\w+>", lambda _: name, self.name, count=1)

    def matches(self, tag: str) -> bool:
        """Returns whether a written tag is this one, or a member of this family."""
        return _pattern(self.name).fullmatch(tag) is not None


@cache
def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"<\w+>", name)
    return re.compile(".+".join(re.escape(part) for part in parts))


PARAMETERS = Tag(
    "parameters/<name>",
    "histogram",
    "",
    "Elements of the whole parameter after the optimizer step.",
    "snapshot steps",
)
GRADIENTS = Tag(
    "gradients/<name>",
    "histogram",
    "",
    "Elements of the whole gradient: accumulated, summed over ranks, before clipping, without the "
    "float16 loss scale.",
    "snapshot steps",
)
GRAD_NORM_TOTAL = Tag(
    "grad_norm/total",
    "scalar",
    "L2 norm",
    "Norm of all gradients together before clipping, root mean square over the steps since the "
    "last logging step.",
    "logging steps",
)
GRAD_NORM_MAX = Tag(
    "grad_norm/max",
    "scalar",
    "L2 norm",
    "Largest norm of all gradients together, before clipping, since the last logging step.",
    "logging steps",
)
GRAD_NORM_CLIPPED = Tag(
    "grad_norm/clipped",
    "scalar",
    "L2 norm",
    "Norm of all gradients together after clipping to `max_grad_norm`, root mean square over the "
    "steps since the last logging step.",
    "logging steps, with clipping",
)
GRAD_NORM_CLIP_FRACTION = Tag(
    "grad_norm/clip_fraction",
    "scalar",
    "share, 0 to 1",
    "Share of the steps since the last logging step whose gradients were clipped.",
    "logging steps, with clipping",
)
GRAD_NORM_PER_BLOCK = Tag(
    "grad_norm_per_block/<block>",
    "scalar",
    "L2 norm",
    "Norm of the gradients of one block before clipping, root mean square over the steps since the "
    "last logging step.",
    'logging steps, with `norm_detail="block"`',
)
GRAD_NORM_PER_PARAMETER = Tag(
    "grad_norm_per_parameter/<name>",
    "scalar",
    "L2 norm",
    "Norm of the gradient of one parameter before clipping, root mean square over the steps since "
    "the last logging step.",
    'logging steps, with `norm_detail="parameter"`',
)
NONFINITE_LOSSES = Tag(
    "health/nonfinite_losses",
    "scalar",
    "steps",
    "Steps since the last logging step whose loss was NaN or infinite on some rank; `train/loss` "
    "leaves them out.",
    "logging steps",
)
NONFINITE_GRADIENTS = Tag(
    "health/nonfinite_gradients",
    "scalar",
    "steps",
    "Steps since the last logging step with a NaN or an infinity in a gradient, without those in "
    "`health/skipped_steps` whose loss scale was too large.",
    "logging steps",
)
SKIPPED_STEPS = Tag(
    "health/skipped_steps",
    "scalar",
    "steps",
    "Steps since the last logging step that the loss scaler of float16 left out, after an overflow "
    "of a gradient.",
    "logging steps, with a loss scale",
)
NONFINITE_EVAL_BATCHES = Tag(
    "health/nonfinite_eval_batches",
    "scalar",
    "batches",
    "Batches of an evaluation, of all ranks, whose loss was NaN or infinite; `eval/loss` may "
    "leave them out.",
    "each evaluation",
)
NONFINITE_EVAL_BATCHES_OF = Tag(
    "health/nonfinite_eval_batches/<dataset>",
    "scalar",
    "batches",
    "The same for one dataset of several.",
    "each evaluation of a dictionary of datasets",
)
LOSS_SPREAD = Tag(
    "health/loss_spread",
    "scalar",
    "",
    "Largest minus smallest loss of a rank at one step, the largest of the steps since the last "
    "logging step.",
    "logging steps, with several ranks",
)
LOSS_SPIKE_SCORE = Tag(
    "health/loss_spike_score",
    "scalar",
    "share, 0 to 1",
    "Share of all steps so far whose loss is above the mean of the 128 steps before by more than 6 "
    "of their standard deviations.",
    "logging steps, from step 129 on",
)
GRAD_NORM_SPIKE_SCORE = Tag(
    "health/grad_norm_spike_score",
    "scalar",
    "share, 0 to 1",
    "The same share for the norm of all gradients together, before clipping.",
    "logging steps, from step 129 on",
)
HEALTH_REPORT = Tag(
    "health/report",
    "text",
    "",
    "What was not finite first, at which step and in which parameter, and what the steps before "
    "looked like.",
    "when something broke",
)
CHECKPOINT_SECONDS = Tag(
    "throughput/checkpoint_seconds",
    "scalar",
    "s",
    "Time that saving the checkpoint took on world rank zero.",
    "each checkpoint",
)
CHECKPOINT_SAVED = Tag(
    "checkpoint/saved",
    "text",
    "",
    "Path, step, size and time of a checkpoint, with the value of `metric_for_best_model`.",
    "each checkpoint",
)
ARGUMENTS = Tag(
    "args",
    "text",
    "",
    "The training arguments as JSON, without their secrets.",
    "the beginning of training, again when they changed",
)
MODEL_CONFIG = Tag(
    "model_config",
    "text",
    "",
    "The model's configuration as JSON, without its secrets.",
    "the beginning of training, again when it changed",
)
OVERHEAD_FRACTION = Tag(
    "tbtrainer/overhead_fraction",
    "scalar",
    "share, 0 to 1",
    "Share of the time since the last logging step that the training loop spent in tbtrainer, on "
    "world rank zero's host.",
    "logging steps",
)
RECORDS_WRITTEN = Tag(
    "tbtrainer/records_written",
    "scalar",
    "records",
    "Records written to the event file of this run by this process.",
    "logging steps",
)
RECORDS_PENDING = Tag(
    "tbtrainer/records_pending",
    "scalar",
    "records",
    "Records that wait in memory to be written.",
    "logging steps",
)
RECORDS_DROPPED = Tag(
    "tbtrainer/records_dropped",
    "scalar",
    "records",
    "Records dropped because the run directory could not be written to for too long; should be 0.",
    "logging steps",
)

TAGS: tuple[Tag, ...] = (
    GRAD_NORM_TOTAL,
    GRAD_NORM_MAX,
    GRAD_NORM_CLIPPED,
    GRAD_NORM_CLIP_FRACTION,
    GRAD_NORM_PER_BLOCK,
    GRAD_NORM_PER_PARAMETER,
    PARAMETERS,
    GRADIENTS,
    NONFINITE_LOSSES,
    NONFINITE_GRADIENTS,
    SKIPPED_STEPS,
    NONFINITE_EVAL_BATCHES,
    NONFINITE_EVAL_BATCHES_OF,
    LOSS_SPREAD,
    LOSS_SPIKE_SCORE,
    GRAD_NORM_SPIKE_SCORE,
    HEALTH_REPORT,
    CHECKPOINT_SECONDS,
    CHECKPOINT_SAVED,
    ARGUMENTS,
    MODEL_CONFIG,
    OVERHEAD_FRACTION,
    RECORDS_WRITTEN,
    RECORDS_PENDING,
    RECORDS_DROPPED,
)


def description_of(tag: str) -> str:
    """Returns the text that TensorBoard shows on a tag's card; empty for a tag of somebody else.

    Example:
        >>> description_of("tbtrainer/records_pending")
        'Records that wait in memory to be written. Unit: records.'
    """
    for known in TAGS:
        if known.matches(tag):
            return known.description + (f" Unit: {known.unit}." if known.unit else "")
    return ""


def table() -> str:
    """Returns all tags as a Markdown table."""
    rows = [
        f"| `{tag.name}` | {tag.kind} | {tag.unit or '–'} | {tag.description} | {tag.when} |"
        for tag in TAGS
    ]
    return "\n".join(
        ["| tag | kind | unit | meaning | written at |", "|---|---|---|---|---|", *rows]
    )


if __name__ == "__main__":
    print(table())
