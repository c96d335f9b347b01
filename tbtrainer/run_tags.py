"""The tags that say what a run is, and how good: arguments, model, environment, best metric.

They are listed in `tags.py`.
"""

from tbtrainer.tag import Tag

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
RUN_ARGUMENTS = Tag(
    "run/arguments",
    "text",
    "",
    "The arguments as tables, those that differ from the defaults first, without their secrets.",
    "the beginning of training, again when they changed",
)
RUN_MODEL = Tag(
    "run/model",
    "text",
    "",
    "Parameters in total and per block, precision, sharding, attention and compilation.",
    "the beginning of training, again when it changed",
)
RUN_ENVIRONMENT = Tag(
    "run/environment",
    "text",
    "",
    "Versions, hardware, git commit and command line, without their secrets.",
    "the beginning of training, again when it changed",
)
BEST_VALUE = Tag(
    "hparams/best_<metric>",
    "scalar",
    "",
    "Best value so far of `metric_for_best_model`, or else of `eval_loss`, for the HParams "
    "dashboard.",
    "each evaluation of a training that is better than those before it",
)
