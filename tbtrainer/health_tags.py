"""The tags about NaN, infinities and spikes. They are listed in `tags.py`."""

from tbtrainer.tag import Tag

NONFINITE_LOSSES = Tag(
    "health/nonfinite_losses",
    "scalar",
    "steps",
    "Steps since the last logging step whose loss was NaN or infinite on some rank; by default "
    "`train/loss` leaves them out.",
    "logging steps and the end of the run",
)
NONFINITE_GRADIENTS = Tag(
    "health/nonfinite_gradients",
    "scalar",
    "steps",
    "Steps since the last logging step with a NaN or an infinity in a gradient, without the steps "
    "that the loss scaler of float16 skipped after an overflow.",
    "logging steps and the end of the run",
)
SKIPPED_STEPS = Tag(
    "health/skipped_steps",
    "scalar",
    "steps",
    "Steps since the last logging step that the loss scaler of float16 skipped; a few at the "
    "beginning of a training are normal.",
    "logging steps and the end of the run, with a loss scale",
)
NONFINITE_EVAL_BATCHES = Tag(
    "health/nonfinite_eval_batches",
    "scalar",
    "batches",
    "Batches of an evaluation, on all ranks together, whose loss was NaN or infinite; depending on "
    "the version of transformers, `eval/loss` leaves them out.",
    "each evaluation",
)
NONFINITE_EVAL_BATCHES_OF = Tag(
    "health/nonfinite_eval_batches/<dataset>",
    "scalar",
    "batches",
    "Batches of the evaluation of this dataset, on all ranks together, whose loss was NaN or "
    "infinite.",
    "each evaluation of a dictionary of datasets",
)
LOSS_SPREAD = Tag(
    "health/loss_spread",
    "scalar",
    "",
    "Difference between the largest and the smallest loss of the ranks at one step; the largest "
    "difference since the last logging step.",
    "logging steps and the end of the run, with several ranks",
)
LOSS_SPIKE_SCORE = Tag(
    "health/loss_spike_score",
    "scalar",
    "share, 0 to 1",
    "Share of the steps so far, from the 129th on, whose loss exceeds the mean of the 128 steps "
    "before by more than 6 of their standard deviations.",
    "logging steps, from step 129 on",
)
GRAD_NORM_SPIKE_SCORE = Tag(
    "health/grad_norm_spike_score",
    "scalar",
    "share, 0 to 1",
    "Share of the steps so far, from the 129th on, whose gradient norm before clipping exceeds the "
    "mean of the 128 steps before by more than 6 of their standard deviations.",
    "logging steps, from step 129 on",
)
HEALTH_REPORT = Tag(
    "health/report",
    "text",
    "",
    "What was NaN or infinite first, at which step and in which parameter, and loss and gradient "
    "norm of the steps before.",
    "logging steps, checkpoints, evaluations and the end, if something was not finite",
)
