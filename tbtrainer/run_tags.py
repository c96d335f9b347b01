"""The tags that say what a run is: its arguments, its model and its environment.

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
