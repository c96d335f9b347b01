"""The tags of speed, memory, devices and learning rates. They are listed in `tags.py`."""

from tbtrainer.tag import Tag

STEP_SECONDS = Tag(
    "throughput/step_seconds",
    "scalar",
    "s",
    "Median time of an optimizer step on world rank zero, without evaluations, checkpoints, "
    "logging and tbtrainer.",
    "logging steps, from the second step on",
)
STEP_SECONDS_P95 = Tag(
    "throughput/step_seconds_p95",
    "scalar",
    "s",
    "Time that 95 % of the optimizer steps on world rank zero do not exceed, measured like "
    "`throughput/step_seconds`.",
    "logging steps, from the second step on",
)
TOKENS_PER_SECOND = Tag(
    "throughput/tokens_per_second",
    "scalar",
    "tokens/s",
    "Tokens of `input_ids` that all ranks together are trained on, without padding.",
    "logging steps, from the second step on, with `input_ids`",
)
SAMPLES_PER_SECOND = Tag(
    "throughput/samples_per_second",
    "scalar",
    "samples/s",
    "Samples that all ranks together are trained on.",
    "logging steps, from the second step on",
)
DATA_WAIT_FRACTION = Tag(
    "throughput/data_wait_fraction",
    "scalar",
    "share, 0 to 1",
    "Share of the step time that world rank zero waits for data.",
    "logging steps, from the second step on",
)
MFU = Tag(
    "throughput/mfu",
    "scalar",
    "share, 0 to 1",
    "Model FLOPs utilisation: floating-point operations per second that the model needs, as a "
    "share of the peak of all devices.",
    "logging steps, from the second step on, with `input_ids` on devices whose peak is known",
)
SLOWEST_RANK = Tag(
    "throughput/slowest_rank",
    "scalar",
    "rank",
    "Rank that needs longest for its data and its first forward pass.",
    "logging steps, from the second step on, with several processes",
)
RANK_SPREAD = Tag(
    "throughput/rank_spread",
    "scalar",
    "ratio, 1 or more",
    "Time that `throughput/slowest_rank` needs for its data and its first forward pass, as a "
    "multiple of the median of all ranks.",
    "logging steps, from the second step on, with several processes",
)
EVALUATION_SECONDS = Tag(
    "throughput/evaluation_seconds",
    "scalar",
    "s",
    "Time that the evaluation took on world rank zero, all datasets together.",
    "each evaluation",
)
VERDICT = Tag(
    "throughput/verdict",
    "text",
    "",
    "What takes more time than it should, with the figures.",
    "logging steps at which it changes",
)
STEP_PHASES = Tag(
    "step_phases/<phase>",
    "scalar",
    "s per step",
    "Time per optimizer step that world rank zero spends in this phase; the sum of the phases is "
    "the time between two logging steps, without evaluations and checkpoints.",
    "logging steps, from the second step on",
)
LEARNING_RATE = Tag(
    "learning_rate/<group>",
    "scalar",
    "",
    "Learning rate of one group of parameters at the last step.",
    "logging steps, once groups have had different rates",
)
WEIGHT_DECAY = Tag(
    "weight_decay/<group>",
    "scalar",
    "",
    "Weight decay of one group of parameters at the last step.",
    "logging steps, once groups have had different rates and different decays",
)
MEMORY_ALLOCATED = Tag(
    "memory/allocated",
    "scalar",
    "GiB",
    "Memory that tensors use on world rank zero's device.",
    "logging steps, on CUDA",
)
MEMORY_RESERVED = Tag(
    "memory/reserved",
    "scalar",
    "GiB",
    "Memory that PyTorch's allocator holds on world rank zero's device.",
    "logging steps, on CUDA",
)
MEMORY_PEAK = Tag(
    "memory/peak",
    "scalar",
    "GiB",
    "Most memory that tensors used on world rank zero's device since the last logging step.",
    "logging steps, on CUDA",
)
MEMORY_RETRIES = Tag(
    "memory/allocator_retries",
    "scalar",
    "retries",
    "Allocations since the last logging step that succeeded only after the allocator had freed its "
    "cache; above 0 the memory of world rank zero's device is nearly used up.",
    "logging steps, on CUDA",
)
MEMORY_HOST = Tag(
    "memory/host_resident",
    "scalar",
    "GiB",
    "Main memory that the process of world rank zero uses (resident set), without that of its data "
    "loader's workers.",
    "logging steps",
)
DEVICE_UTILIZATION = Tag(
    "hardware/utilization",
    "scalar",
    "share, 0 to 1",
    "Share of the driver's last sample period in which world rank zero's device ran a kernel.",
    "logging steps, on CUDA with `nvidia-ml-py`",
)
DEVICE_POWER = Tag(
    "hardware/power",
    "scalar",
    "W",
    "Power that world rank zero's device uses.",
    "logging steps, on CUDA with `nvidia-ml-py`",
)
DEVICE_TEMPERATURE = Tag(
    "hardware/temperature",
    "scalar",
    "°C",
    "Temperature of world rank zero's device.",
    "logging steps, on CUDA with `nvidia-ml-py`",
)
