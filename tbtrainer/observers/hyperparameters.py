"""The hyper-parameters of a training, as the *HParams* dashboard compares them.

The columns are the same for every training, so that runs of different versions and settings share
them. A hyper-parameter search adds those that it chooses.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeAlias

from tbtrainer.dashboard_records import HParam
from tbtrainer.observers.model_flops import compute_dtype
from tbtrainer.observers.training import Training
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import world_size

Value: TypeAlias = bool | float | str

# TensorBoard shows so many columns at first.
MOST_PROMINENT = 5
# The most that are taken of a search.
MOST_OF_SEARCH = 100

# Fields of `TrainingArguments` (transformers 4.57 to 5.24). One that a version does not have is
# empty there.
_ARGUMENTS: dict[str, Literal["number", "text", "flag"]] = {
    "learning_rate": "number",
    "lr_scheduler_type": "text",
    "warmup_steps": "number",
    "warmup_ratio": "number",
    "num_train_epochs": "number",
    "per_device_train_batch_size": "number",
    "gradient_accumulation_steps": "number",
    "optim": "text",
    "weight_decay": "number",
    "adam_beta1": "number",
    "adam_beta2": "number",
    "adam_epsilon": "number",
    "max_grad_norm": "number",
    "label_smoothing_factor": "number",
    "neftune_noise_alpha": "number",
    "gradient_checkpointing": "flag",
    "torch_compile": "flag",
    "seed": "number",
    "data_seed": "number",
}
_FIXED = (
    *(HParam(name, kind) for name, kind in _ARGUMENTS.items()),
    HParam("train_batch_size", "number", "Samples of one optimizer step, of all processes."),
    HParam("total_steps", "number", "Optimizer steps of the whole training."),
    HParam("dtype", "text", "Of matrix products."),
    HParam("processes", "number"),
    HParam("sharding", "text", "Modes in which the processes divide the parameters."),
    HParam("model", "text", "Name or path of the pretrained model, or else the class."),
    HParam("model_type", "text"),
    HParam("parameters", "number", "Elements of all parameters."),
    HParam("trained_parameters", "number", "Elements of the parameters that are trained."),
)
# In this order, after those of a search.
_PROMINENT = (
    *("learning_rate", "train_batch_size", "num_train_epochs"),
    *("weight_decay", "trained_parameters"),
)


def columns_of(searched: Mapping[str, Any]) -> list[HParam]:
    """Returns the columns of a training.

    Args:
        searched: What a hyper-parameter search has chosen, by name; empty without a search.
    """
    own = {hparam.name for hparam in _FIXED}
    added = {name: _value(value) for name, value in _first(searched).items() if name not in own}
    prominent = [*_first(searched), *_PROMINENT]
    chosen = set(list(dict.fromkeys(prominent))[:MOST_PROMINENT])
    columns = [*_FIXED, *(HParam(name, _kind(value)) for name, value in added.items())]
    return [
        HParam(hparam.name, hparam.kind, hparam.description, hparam.name in chosen)
        for hparam in columns
    ]


def values_of(training: Training, searched: Mapping[str, Any]) -> dict[str, Value]:
    """Returns the hyper-parameters of a training, by name. Those that it does not have are missing.

    Args:
        training: The training that begins.
        searched: As in `columns_of`.
    """
    given = training.training_arguments
    found = {name: getattr(given, name, None) for name in _ARGUMENTS}
    # `Trainer` then ignores the number of epochs.
    if given.max_steps > 0:
        found["num_train_epochs"] = None
    found = {**_first(searched), **found, **_derived(training)}
    return {name: _value(value) for name, value in found.items() if value is not None}


def trial_parameters(trial: Any) -> Mapping[str, Any]:
    """Returns what a search has chosen for a trial; empty without a trial.

    Args:
        trial: As `Trainer.train` gets it: a trial of optuna, or a mapping of another library.
    """
    chosen = getattr(trial, "params", trial)
    if not isinstance(chosen, Mapping):
        return {}
    return {str(name): value for name, value in chosen.items()}


def _derived(training: Training) -> dict[str, Any]:
    given, parameters = training.training_arguments, training.parameters
    rows = parameters.rows
    config = getattr(training.unwrapped_model, "config", None)
    name = getattr(config, "_name_or_path", "") or type(training.unwrapped_model).__name__
    return {
        "train_batch_size": _samples_per_step(training),
        "total_steps": training.schedule.last or None,
        "dtype": compute_dtype(training.accelerator, parameters, getattr(given, "tf32", None)),
        "processes": world_size(),
        "sharding": parameters.mode.replace("plain", "none"),
        "model": name,
        "model_type": getattr(config, "model_type", None) or None,
        "parameters": sum(row.global_count or 0 for row in rows),
        "trained_parameters": sum(
            row.global_count or 0 for row in rows if row.parameter.requires_grad
        ),
    }


def _samples_per_step(training: Training) -> int:
    given = training.training_arguments
    sizes = ModelParallelSizes.of(training.accelerator, training.unwrapped_model)
    replicas = max(world_size() // sizes.ranks_per_sample, 1)
    return int(given.train_batch_size * given.gradient_accumulation_steps * replicas)


def _first(searched: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(searched.items())[:MOST_OF_SEARCH])


def _value(value: Any) -> Value:
    """Returns a value as TensorBoard can show it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) < 2**1023:
        return float(value)
    return str(value)


def _kind(value: Value) -> Literal["number", "text", "flag"]:
    if isinstance(value, bool):
        return "flag"
    return "text" if isinstance(value, str) else "number"
