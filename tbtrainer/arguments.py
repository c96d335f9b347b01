"""`TensorBoardArguments`: what is shown, as fields that extend `TrainingArguments`."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from transformers import Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from tbtrainer.argument_checks import (
    checked_choice,
    checked_directory,
    checked_flag,
    checked_packages,
    checked_panels,
    checked_patterns,
    checked_positive_number,
    checked_prompts,
    checked_steps_or_ratio,
    checked_strategy,
    checked_targets,
    checked_whole_number,
)
from tbtrainer.panels.built_in import PANEL_NAMES
from tbtrainer.panels.panel import Panel
from tbtrainer.panels.prompts import MOST_PROMPTS

# Targets with a tensor for each module, and not for each parameter.
MODULE_TARGETS = ("activations", "activation_gradients")
HISTOGRAM_TARGETS = ("parameters", "gradients", "updates", "optimizer_state", *MODULE_TARGETS)
HISTOGRAM_DETAILS = ("parameter", "block", "auto")
NORM_DETAILS = ("total", "block", "parameter")
NONFINITE_ACTIONS = ("log", "stop", "raise")
MIRRORS = ("wandb", "trackio")
RUN_RESUMES = ("auto", "new")
TELEMETRY_ERRORS = ("warn", "raise")
MIN_HISTOGRAM_BUCKETS = 8
MAX_HISTOGRAM_BUCKETS = 1024
MAX_EVALUATION_EXAMPLES = 1_000_000


@dataclass
class TensorBoardArguments:
    """What is shown in TensorBoard, and how often: mix it into any `TrainingArguments`.

    Name it first, so that its checks run first:

    ```python
    @dataclass
    class MyArguments(TensorBoardArguments, SFTConfig): ...
    ```

    `TBTrainingArguments` and `TBSeq2SeqTrainingArguments` are ready-made. Every field is a
    command-line flag through `HfArgumentParser`.

    Args:
        logging_dir: Run directory. `None` means the value of the environment variable
            `TENSORBOARD_LOGGING_DIR`, or if that is not set, `{output_dir}/runs/{time}_{host}`.
        histogram_strategy: When a snapshot of the tensors is taken: `"no"`, `"steps"` (every
            `histogram_steps`) or `"epoch"` (at the end of each). `"steps"` and `"epoch"` also take
            one at the last step of the training. With a dataset of unknown length there is no epoch
            to count, and `"epoch"` takes that one alone.
        histogram_steps: Optimizer steps between two snapshots. A value below 1 is a ratio of all
            steps of the training. The default, 0.02, gives 50 snapshots, about as many as
            TensorBoard shows of a histogram.
        histogram_targets: What a snapshot holds: `"parameters"`, `"gradients"`, `"updates"` (what
            the optimizer step added to the parameters), `"optimizer_state"` (such as the moments of
            Adam), `"activations"` (the outputs of modules) and `"activation_gradients"`. Updates
            need a copy of this rank's trained parameters while such a step is taken.
        histogram_include: Regular expressions. Only parameters whose name has a match get
            histograms, and only modules whose name has a match have activations. `None` means all
            parameters, and the numbered blocks, such as `model.layers.3`.
        histogram_exclude: Regular expressions. Parameters and modules whose name has a match get no
            histogram, even if `histogram_include` has a match too.
        histogram_detail: Which tensors share a histogram. `"parameter"`: none. `"block"`: those of
            one block whose names differ only in numbers, such as the experts of
            `layers.3.mlp.experts.*.up_proj.weight`. `"auto"`: as `"parameter"` for models of up to
            1,000 parameters, else as `"block"`, but the items of a `ParameterList` do not share.
        histogram_buckets: The most buckets written for one histogram, from 8 to 1024.
        norm_detail: Which gradient norms are written at each logging step: `"total"`, `"block"`
            (one per block, and the total) or `"parameter"` (one per parameter, and the total).
        nonfinite_action: What happens at a step whose loss or a gradient is NaN or infinite.
            `"log"`: the step is taken, and reported at the next logging step. `"stop"`: the step is
            not taken, and `train` ends as after its last step. `"raise"`: the step is not taken,
            and `train` raises `tbtrainer.NonFiniteError` on every rank. `"stop"` and `"raise"` keep
            the weights of the last good step. With them the host waits for the device once per
            step.
        evaluation_panels: What each evaluation shows beside its metrics: `"auto"` (all panels that
            fit the model and the data, but not `"projector"`), names of panels, `"none"`, and
            instances of subclasses of `tbtrainer.Panel`. They can be combined, as in
            `["auto", "projector"]`.
        evaluation_examples: The most examples of an evaluation that a panel keeps, of all ranks.
        generation_prompts: Texts after which a language model is asked to write, at the end of each
            evaluation: at most 32, together in one batch, with at most 32 new tokens each. `None`:
            parts of the first three examples of the evaluation. An empty list switches it off.
        flops_per_token: Floating-point operations that one token costs in training, forward and
            backward pass together, for `throughput/mfu`. `None`: computed from the model's
            parameters and `config`, and left out where that is not possible.
        mirror_to: Other trackers that get all scalars and histograms as well: `"wandb"`,
            `"trackio"` or both. Begin a run of the tracker before `train()`; tbtrainer begins none.
        run_resume: Where a training that is resumed from a checkpoint writes. `"auto"`: to the run
            directory stored in the checkpoint. `"new"`: to a new one.
        event_file_private: Whether only their owner may read event files and files of JSON lines
            (mode 0600). Otherwise the process's umask decides.
        event_file_fsync: Whether event files are forced to the disk (fsync) before each checkpoint
            is saved and at the end, and files of JSON lines with each line. Records logged before
            then survive a power cut. All records survive the end of the process in any case.
        telemetry_errors: What an error inside tbtrainer or an observer does. `"warn"`: it is logged
            once, and the training continues. `"raise"`: it ends the training, which is for tests.

    Raises:
        ValueError: A field has a value that is not allowed. The message names the field, the
            value and what is allowed. Raised on every rank, when the arguments are built.
    """

    logging_dir: str | None = field(
        default=None,
        metadata={"help": "Run directory; else $TENSORBOARD_LOGGING_DIR or output_dir/runs/..."},
    )
    histogram_strategy: IntervalStrategy | str = field(
        default="steps",
        metadata={"help": "When a snapshot of the tensors is taken: no, steps or epoch."},
    )
    histogram_steps: float = field(
        default=0.02,
        metadata={
            "help": "Optimizer steps between two snapshots if histogram_strategy='steps'. A whole "
            "number, or a ratio below 1 of the total training steps."
        },
    )
    histogram_targets: list[str] = field(
        default_factory=lambda: ["parameters", "gradients"],
        metadata={
            "help": "What a snapshot holds: parameters, gradients, updates, optimizer_state, "
            "activations, activation_gradients."
        },
    )
    histogram_include: list[str] | None = field(
        default=None,
        metadata={
            "help": "Regular expressions: only parameters and modules with a match are shown."
        },
    )
    histogram_exclude: list[str] | None = field(
        default=None,
        metadata={"help": "Regular expressions: parameters and modules with a match are left out."},
    )
    histogram_detail: str = field(
        default="auto",
        metadata={"help": "Histograms per parameter, block (experts together), or auto."},
    )
    histogram_buckets: int = field(
        default=64, metadata={"help": "The most buckets written for one histogram (8 to 1024)."}
    )
    norm_detail: str = field(
        default="block",
        metadata={"help": "Gradient norms at each logging step per: total, block or parameter."},
    )
    nonfinite_action: str = field(
        default="log",
        metadata={
            "help": "At a loss or gradient that is NaN or infinite: report it (log), end training "
            "with the last good weights (stop), or raise an error (raise)."
        },
    )
    evaluation_panels: list[str] = field(
        default_factory=lambda: ["auto"],
        metadata={"help": "What evaluations show beside metrics: auto, none, or names of panels."},
    )
    evaluation_examples: int = field(
        default=1000,
        metadata={"help": "The most examples of an evaluation that a panel keeps."},
    )
    generation_prompts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts that a language model continues after each evaluation. Parts of its "
            "first examples if not given."
        },
    )
    flops_per_token: float | None = field(
        default=None,
        metadata={
            "help": "Floating-point operations per token in training, for throughput/mfu. Computed "
            "from the model if not given."
        },
    )
    mirror_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Other trackers that get all scalars and histograms: wandb, trackio."},
    )
    run_resume: str = field(
        default="auto",
        metadata={"help": "A resumed training continues its run (auto) or begins another (new)."},
    )
    event_file_private: bool = field(
        default=False,
        metadata={"help": "Event files are readable by their owner alone (mode 0600)."},
    )
    event_file_fsync: bool = field(
        default=False,
        metadata={"help": "Event files are forced to the disk before each checkpoint is saved."},
    )
    telemetry_errors: str = field(
        default="warn",
        metadata={
            "help": "An error inside tbtrainer is logged once (warn) or ends training (raise)."
        },
    )

    def __post_init__(self) -> None:
        self.histogram_strategy = checked_strategy("histogram_strategy", self.histogram_strategy)
        self.histogram_steps = checked_steps_or_ratio("histogram_steps", self.histogram_steps)
        self.histogram_targets = checked_targets(
            "histogram_targets", self.histogram_targets, HISTOGRAM_TARGETS
        )
        self.histogram_include = checked_patterns("histogram_include", self.histogram_include)
        self.histogram_exclude = checked_patterns("histogram_exclude", self.histogram_exclude)
        self.histogram_detail = checked_choice(
            "histogram_detail", self.histogram_detail, HISTOGRAM_DETAILS
        )
        self.histogram_buckets = checked_whole_number(
            "histogram_buckets",
            self.histogram_buckets,
            MIN_HISTOGRAM_BUCKETS,
            MAX_HISTOGRAM_BUCKETS,
        )
        self.norm_detail = checked_choice("norm_detail", self.norm_detail, NORM_DETAILS)
        self.nonfinite_action = checked_choice(
            "nonfinite_action", self.nonfinite_action, NONFINITE_ACTIONS
        )
        self.evaluation_panels = checked_panels(
            "evaluation_panels", self.evaluation_panels, PANEL_NAMES
        )
        self.evaluation_examples = checked_whole_number(
            "evaluation_examples", self.evaluation_examples, 1, MAX_EVALUATION_EXAMPLES
        )
        self.generation_prompts = checked_prompts(
            "generation_prompts", self.generation_prompts, MOST_PROMPTS
        )
        self.flops_per_token = checked_positive_number("flops_per_token", self.flops_per_token)
        self.mirror_to = checked_packages("mirror_to", self.mirror_to, MIRRORS)
        self.run_resume = checked_choice("run_resume", self.run_resume, RUN_RESUMES)
        self.event_file_private = checked_flag("event_file_private", self.event_file_private)
        self.event_file_fsync = checked_flag("event_file_fsync", self.event_file_fsync)
        self.telemetry_errors = checked_choice(
            "telemetry_errors", self.telemetry_errors, TELEMETRY_ERRORS
        )
        self.logging_dir = checked_directory("logging_dir", self.logging_dir)
        chosen_by_user = self.logging_dir
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        # transformers 4.57 sets `logging_dir` if it is None, so keep whether the user set it.
        self._logging_dir_is_default = chosen_by_user is None

    # Whether `to_dict` leaves out the fields of this class. No annotation, so it is not a field.
    _hides_own_fields = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as `TrainingArguments.to_dict` does."""
        values: dict[str, Any] = getattr(super(), "to_dict")()  # noqa: B009
        # transformers takes every field whose name ends in `_token` for a secret.
        values["flops_per_token"] = self.flops_per_token
        # For JSON.
        values["evaluation_panels"] = [
            panel.name if isinstance(panel, Panel) else panel for panel in self.evaluation_panels
        ]
        if self._hides_own_fields:
            for name in _own_fields(type(self)):
                del values[name]
        return values


@dataclass
class TBTrainingArguments(TensorBoardArguments, TrainingArguments):
    """`TrainingArguments` with the fields of `TensorBoardArguments`.

    ```python
    from tbtrainer import TBTrainingArguments as TrainingArguments

    args = TrainingArguments(output_dir="out", histogram_steps=100)
    ```
    """


@dataclass
class TBSeq2SeqTrainingArguments(TensorBoardArguments, Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` with the fields of `TensorBoardArguments`."""


def _own_fields(cls: type) -> set[str]:
    """Names of the fields that only `TensorBoardArguments` adds to a class of arguments."""
    others = [
        base
        for base in cls.__mro__
        if is_dataclass(base) and not issubclass(base, TensorBoardArguments)
    ]
    known = {f.name for base in others for f in fields(base)}
    return {f.name for f in fields(TensorBoardArguments)} - known
