"""The tags about what is not finite, and about spikes; see `tags.py`."""

from tbtrainer.tag import Tag

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
