"""What each training argument is about, and whether it has its default value."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from tbtrainer.arguments import TensorBoardArguments

# By topic: the names of its fields, in transformers 4.57 to 5.24.
_TOPICS = {
    "Duration and batch size": r"do_train|num_train_epochs|max_steps|per_(device|gpu)_train_.*"
    r"|auto_find_batch_size|gradient_accumulation_steps|average_tokens_.*",
    "Learning rate": r"learning_rate|lr_.*|warmup_.*",
    "Optimizer": r"optim.*|adam_.*|adafactor|weight_decay|max_grad_norm",
    "Regularisation": r"label_smoothing_.*|neftune_.*",
    "Precision, memory and speed": r"(bf|fp)16(?!_full_eval).*|tf32|half_precision_.*|use_cache"
    r"|(use_)?liger_.*|(gradient|activation)_checkpointing.*|torch_.*|torchdynamo|jit_mode_.*",
    "Data": r"dataloader_.*|remove_unused_columns|label_names|train_sampling_strategy"
    r"|group_by_length|length_column_name|ignore_data_skip|past_index|sortish_sampler",
    "Evaluation": r"eval_.*|do_(eval|predict)|per_(device|gpu)_eval_.*|.*_full_eval"
    r"|prediction_loss_only|use_legacy_.*|(include_for|batch_eval)_metrics|include_inputs_for_metrics"
    r"|load_best_.*|metric_for_.*|greater_is_better|predict_with_.*|generation_(?!prompts).*",
    "Checkpoints and hub": r"output_dir|overwrite_output_dir|save_.*|resume_from_checkpoint"
    r"|restore_callback_.*|enable_jit_checkpoint|push_to_hub.*|hub_.*",
    "Logging": r"log(ging)?_.*|report_to|run_name|project|trackio_.*|disable_tqdm|debug"
    r"|skip_memory_metrics|include_(num_input_)?tokens_.*",
    "Reproducibility": r"(data_)?seed|full_determinism",
    "Devices and processes": r"ddp_.*|fsdp.*|deepspeed|accelerator_config|parallelism_config"
    r"|use_cpu|no_cuda|use_mps_device|use_ipex|tp_size|tpu_.*|ray_scope|mp_parameters|split_batches",
}
_PATTERNS = {topic: re.compile(pattern) for topic, pattern in _TOPICS.items()}
_OWN = "TensorBoard"
_OTHER = "Other"
TOPICS = (*_TOPICS, _OWN, _OTHER)

_NO_XLA = {"xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}
# What `__post_init__` makes of a default (transformers 4.57 to 5.24).
_FILLED_IN: dict[str, tuple[Any, ...]] = {
    "activation_checkpointing": (False,),
    "gradient_checkpointing": (False,),
    "disable_tqdm": (False,),
    "report_to": ([],),
    "debug": ([],),
    "fsdp": ([],),
    "do_eval": (True,),  # By `eval_strategy`.
    "fsdp_config": ({"min_num_params": 0, **_NO_XLA}, _NO_XLA),
    "include_num_input_tokens_seen": ("no",),
}
# Not the user's: the launcher sets them, or they are another spelling of a field.
_LEFT_OUT = frozenset(("local_rank", "_n_gpu"))


@dataclass(frozen=True)
class Argument:
    """One training argument.

    Attributes:
        name: The name of the field.
        value: As it is now. It may hold a secret.
        default: Of its class; `None` if it has none.
        is_default: Whether the value is what the default becomes.
        topic: One of `TOPICS`.
    """

    name: str
    value: Any
    default: Any
    is_default: bool
    topic: str


def arguments_of(training_arguments: Any, telemetry: TensorBoardArguments) -> list[Argument]:
    """Returns all arguments of a training, in the order of their fields.

    Args:
        training_arguments: Of the trainer: a dataclass.
        telemetry: What is shown. Its fields count where `training_arguments` has them too.
    """
    found = {} if not is_dataclass(training_arguments) else _fields_of(training_arguments)
    return [*{**found, **_fields_of(telemetry)}.values()]


def topic_of(name: str) -> str:
    """Returns what a field is about.

    Example:
        >>> topic_of("warmup_steps"), topic_of("histogram_steps"), topic_of("my_own")
        ('Learning rate', 'TensorBoard', 'Other')
    """
    if name in TensorBoardArguments.__dataclass_fields__:
        return _OWN
    found = (topic for topic, pattern in _PATTERNS.items() if pattern.fullmatch(name))
    return next(found, _OTHER)


def _fields_of(given: Any) -> dict[str, Argument]:
    return {argument.name: argument for argument in _each(given)}


def _each(given: Any) -> Iterator[Argument]:
    for field in fields(given):
        if field.name in _LEFT_OUT or not hasattr(given, field.name):
            continue
        value = getattr(given, field.name)
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        is_default = default is not MISSING and _is_default(field.name, value, default)
        shown = None if default is MISSING else default
        yield Argument(field.name, value, shown, is_default, topic_of(field.name))


def _is_default(name: str, value: Any, default: Any) -> bool:
    try:
        if _comparable(value) == _comparable(default):
            return True
        if name == "accelerator_config" and default is None:
            return bool(value == type(value)())
        return default in (None, False, "", "none", "all") and value in _FILLED_IN.get(name, ())
    except Exception:  # Fields of a user's own hold anything, such as arrays.
        return False


def _comparable(value: Any) -> Any:
    """Returns an enumeration as its value, because the defaults are written as texts."""
    return value.value if isinstance(value, Enum) else value
