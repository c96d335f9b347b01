"""Every tag that tbtrainer writes: its kind, its unit, what it means and when it is written.

The writers take names and descriptions from here, and the table in docs/tags.md is printed by
`python -m tbtrainer.tags`. What `Trainer` itself logs keeps its stock tags, in `train/`, `eval/`
and `test/`. Of the tags declared here, cards about an evaluation are in `eval/`, and no curve is.
"""

from dataclasses import replace

from tbtrainer.health_tags import (
    GRAD_NORM_SPIKE_SCORE,
    HEALTH_REPORT,
    LOSS_SPIKE_SCORE,
    LOSS_SPREAD,
    NONFINITE_EVAL_BATCHES,
    NONFINITE_EVAL_BATCHES_OF,
    NONFINITE_GRADIENTS,
    NONFINITE_LOSSES,
    SKIPPED_STEPS,
)
from tbtrainer.histogram_tags import (
    ACTIVATION_DEPTH,
    ACTIVATION_GRADIENTS,
    ACTIVATION_RMS,
    ACTIVATIONS,
    GRADIENT_DEPTH,
    GRADIENTS,
    OPTIMIZER_STATE,
    OUTLIERS,
    PARAMETER_DEPTH,
    PARAMETERS,
    UPDATE_DEPTH,
    UPDATE_RATIO,
    UPDATE_UNCHANGED,
    UPDATES,
)
from tbtrainer.norm_tags import (
    GRAD_NORM_CLIP_FRACTION,
    GRAD_NORM_CLIPPED,
    GRAD_NORM_MAX,
    GRAD_NORM_PER_BLOCK,
    GRAD_NORM_PER_PARAMETER,
    GRAD_NORM_TOTAL,
)
from tbtrainer.panel_tags import (
    CALIBRATION,
    CONFUSION_MATRIX,
    GENERATIONS,
    IMAGE_MISTAKES,
    LABEL_F1,
    LOSS_BY_POSITION,
    MISTAKES,
    PERPLEXITY_BY_LENGTH,
    PR_CURVE,
    PREDICTED_AGAINST_TRUE,
    PROJECTOR,
    RESIDUALS,
    TOKEN_CLASSES,
    TOKEN_CONFUSION,
    TOKEN_MISTAKES,
    WORST_TOKENS,
)
from tbtrainer.run_tags import (
    ARGUMENTS,
    BEST_VALUE,
    MODEL_CONFIG,
    RUN_ARGUMENTS,
    RUN_ENVIRONMENT,
    RUN_MODEL,
)
from tbtrainer.speed_tags import (
    DATA_WAIT_FRACTION,
    DEVICE_POWER,
    DEVICE_TEMPERATURE,
    DEVICE_UTILIZATION,
    EVALUATION_SECONDS,
    LEARNING_RATE,
    MEMORY_ALLOCATED,
    MEMORY_HOST,
    MEMORY_PEAK,
    MEMORY_RESERVED,
    MEMORY_RETRIES,
    MFU,
    RANK_SPREAD,
    SAMPLES_PER_SECOND,
    SLOWEST_RANK,
    STEP_PHASES,
    STEP_SECONDS,
    STEP_SECONDS_P95,
    TOKENS_PER_SECOND,
    VERDICT,
    WEIGHT_DECAY,
)
from tbtrainer.tag import Kind, Tag

BEST_METRIC = Tag(
    "eval/best_<metric>",
    "text",
    "",
    "Best value of `metric_for_best_model`, or else of `eval_loss`, how long ago it was, and the "
    "patience of an `EarlyStoppingCallback`.",
    "each evaluation of a training",
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
    UPDATES,
    UPDATE_RATIO,
    UPDATE_UNCHANGED,
    OPTIMIZER_STATE,
    ACTIVATIONS,
    ACTIVATION_RMS,
    ACTIVATION_GRADIENTS,
    GRADIENT_DEPTH,
    PARAMETER_DEPTH,
    UPDATE_DEPTH,
    ACTIVATION_DEPTH,
    OUTLIERS,
    NONFINITE_LOSSES,
    NONFINITE_GRADIENTS,
    SKIPPED_STEPS,
    NONFINITE_EVAL_BATCHES,
    NONFINITE_EVAL_BATCHES_OF,
    LOSS_SPREAD,
    LOSS_SPIKE_SCORE,
    GRAD_NORM_SPIKE_SCORE,
    HEALTH_REPORT,
    STEP_SECONDS,
    STEP_SECONDS_P95,
    TOKENS_PER_SECOND,
    SAMPLES_PER_SECOND,
    DATA_WAIT_FRACTION,
    MFU,
    SLOWEST_RANK,
    RANK_SPREAD,
    EVALUATION_SECONDS,
    VERDICT,
    STEP_PHASES,
    LEARNING_RATE,
    WEIGHT_DECAY,
    MEMORY_ALLOCATED,
    MEMORY_RESERVED,
    MEMORY_PEAK,
    MEMORY_RETRIES,
    MEMORY_HOST,
    DEVICE_UTILIZATION,
    DEVICE_POWER,
    DEVICE_TEMPERATURE,
    BEST_METRIC,
    BEST_VALUE,
    CONFUSION_MATRIX,
    PR_CURVE,
    CALIBRATION,
    MISTAKES,
    IMAGE_MISTAKES,
    LABEL_F1,
    PREDICTED_AGAINST_TRUE,
    RESIDUALS,
    TOKEN_CLASSES,
    TOKEN_CONFUSION,
    TOKEN_MISTAKES,
    LOSS_BY_POSITION,
    PERPLEXITY_BY_LENGTH,
    WORST_TOKENS,
    GENERATIONS,
    PROJECTOR,
    CHECKPOINT_SECONDS,
    CHECKPOINT_SAVED,
    RUN_ARGUMENTS,
    RUN_MODEL,
    RUN_ENVIRONMENT,
    ARGUMENTS,
    MODEL_CONFIG,
    OVERHEAD_FRACTION,
    RECORDS_WRITTEN,
    RECORDS_PENDING,
    RECORDS_DROPPED,
)


def description_of(tag: str, kind: Kind | None = None) -> str:
    """Returns the text that TensorBoard shows on a tag's card; empty for a tag of another program.

    Args:
        tag: As it is written.
        kind: Of what is written. `None`: any. A metric of a user may be called like a card of ours.

    Example:
        >>> description_of("tbtrainer/records_pending")
        'Records that wait in memory to be written. Unit: records.'
    """
    for known in TAGS:
        if kind in (None, known.kind) and _is_one_of(known, tag):
            return known.description + (f" Unit: {known.unit}." if known.unit else "")
    return ""


def _is_one_of(known: Tag, tag: str) -> bool:
    """Whether a tag is a declared one, or that of a dataset of a dictionary of datasets."""
    of_dataset = known.name.replace("eval/", "eval/<dataset>/", 1)
    return known.matches(tag) or replace(known, name=of_dataset).matches(tag)


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
