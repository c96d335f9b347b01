"""`Training`: what an observer is given when a training begins."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, has_length

from tbtrainer.arguments import TensorBoardArguments
from tbtrainer.observers.schedule import SnapshotSchedule, agreed_schedule, steps_per_epoch
from tbtrainer.observers.snapshot_records import SnapshotReader
from tbtrainer.sharding import ParameterTable, parameter_table

_NEVER = SnapshotSchedule(every=0, last=0)


@dataclass(frozen=True)
class Training:
    """The facts of a training when it begins. They are equal on every rank, except where noted.

    Attributes:
        model: The model as it is trained: wrapped, sharded, compiled, on its device.
        unwrapped_model: The model as it was given to the trainer.
        optimizer: The optimizer as accelerate has wrapped it. Under DeepSpeed it may be a stand-in
            without parameters, if the optimizer is in DeepSpeed's configuration.
        accelerator: The trainer's `Accelerator`.
        training_arguments: Of the trainer.
        arguments: What is shown, as the user chose it.
        parameters: All parameters that can be read, and which part of each this rank counts.
        schedule: At which steps snapshots are taken. World rank zero decides.
        device: The training's device on this rank. Differs between ranks.
        max_grad_norm: The norm that gradients are clipped to; 0 means no clipping.
        is_world_process_zero: Whether this is the rank that writes. Differs between ranks.
        snapshot_readers: Functions that return more records of each snapshot than its histograms.
            An observer adds its own in `run_begins`. They are called on world rank zero, in another
            thread, one snapshot after another.
    """

    model: nn.Module
    unwrapped_model: nn.Module
    optimizer: Any
    accelerator: Any
    training_arguments: TrainingArguments
    arguments: TensorBoardArguments
    parameters: ParameterTable
    schedule: SnapshotSchedule
    device: torch.device
    max_grad_norm: float
    is_world_process_zero: bool
    snapshot_readers: list[SnapshotReader] = field(default_factory=list)

    @classmethod
    def of(cls, trainer: Any, model: nn.Module, arguments: TensorBoardArguments) -> "Training":
        """Describes the training that a trainer has prepared.

        With several processes this is a collective: the ranks agree on the parameters and on the
        schedule.

        Args:
            trainer: A `Trainer` whose `train` has been called.
            model: The model as `training_step` gets it.
            arguments: What is shown.
        """
        is_zero = trainer.is_world_process_zero()
        # First of all: a rank that failed before it would be missing in its collectives.
        parameters = parameter_table(model, is_world_process_zero=is_zero)
        schedule, error = _NEVER, None
        try:
            schedule = _own_schedule(trainer, arguments)
        except Exception as caught:
            error = caught
        schedule = agreed_schedule(schedule)
        if error is not None:
            raise error
        return cls(
            model=model,
            unwrapped_model=trainer.model,
            optimizer=trainer.optimizer,
            accelerator=trainer.accelerator,
            training_arguments=trainer.args,
            arguments=arguments,
            parameters=parameters,
            schedule=schedule,
            device=trainer.args.device,
            max_grad_norm=trainer.args.max_grad_norm or 0.0,
            is_world_process_zero=is_zero,
        )

    @property
    def was_step_skipped(self) -> bool:
        """Whether the last optimizer step left the parameters as they were, for an overflow.

        float16 loss scalers do so, accelerate's and DeepSpeed's. Equal on every rank. It is known
        on the host, so nothing waits for a device. It stays false where a fused optimizer skips the
        step by itself, as transformers' default optimizer does on a GPU.
        """
        return bool(getattr(self.accelerator, "optimizer_step_was_skipped", False))


def _own_schedule(trainer: Any, arguments: TensorBoardArguments) -> SnapshotSchedule:
    """Returns the schedule that this rank's data loader gives."""
    loader = trainer.callback_handler.train_dataloader
    batches = len(loader) if has_length(loader) else None
    last = trainer.state.max_steps
    return SnapshotSchedule.from_arguments(
        IntervalStrategy(arguments.histogram_strategy),
        arguments.histogram_steps,
        last,
        steps_per_epoch(batches, trainer.args.gradient_accumulation_steps, last),
    )
