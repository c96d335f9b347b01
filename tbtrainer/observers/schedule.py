"""The steps at which a snapshot is due. They follow from the arguments, not from the data."""

import math
from dataclasses import dataclass

from transformers.trainer_utils import IntervalStrategy

from tbtrainer.sharding.agreement import numbers_of_rank_zero


@dataclass(frozen=True)
class SnapshotSchedule:
    """The optimizer steps at which a snapshot is taken.

    Attributes:
        every: A snapshot is due at each multiple of this number of steps; 0 means never.
        last: The last step of the training. It is due too, unless `every` is 0.
    """

    every: int
    last: int

    @classmethod
    def from_arguments(
        cls, strategy: IntervalStrategy, steps: float, max_steps: int, steps_per_epoch: int
    ) -> "SnapshotSchedule":
        """Makes a schedule from the arguments, as `TrainerState.compute_steps` does.

        Args:
            strategy: `no`, `steps` or `epoch`.
            steps: Number of steps between two snapshots or, if below 1, the ratio of `max_steps`.
            max_steps: Optimizer steps of the whole training.
            steps_per_epoch: Optimizer steps of one epoch.

        Returns:
            The schedule of this rank. Ranks whose epochs differ in length need `agreed_schedule`.
        """
        if strategy == IntervalStrategy.NO:
            return cls(every=0, last=max_steps)
        if strategy == IntervalStrategy.EPOCH:
            return cls(every=max(steps_per_epoch, 1), last=max_steps)
        if steps < 1 and max_steps < 1:
            return cls(every=0, last=max_steps)  # A ratio of an unknown length.
        every = math.ceil(max_steps * steps) if steps < 1 else int(steps)
        return cls(every=max(every, 1), last=max_steps)

    def is_due(self, step: int) -> bool:
        """Returns whether a snapshot is due at optimizer step `step`, counted from 1."""
        return self.every > 0 and step > 0 and (step % self.every == 0 or step == self.last)


def agreed_schedule(schedule: SnapshotSchedule) -> SnapshotSchedule:
    """Returns world rank zero's schedule, on every rank.

    Data loaders of unequal length give the ranks epochs of unequal length. If one rank took a
    snapshot at another step than the others, it would wait for ever in a collective.

    With several processes this is a collective, so every rank has to call it.

    Args:
        schedule: This rank's own.
    """
    every, last = numbers_of_rank_zero([schedule.every, schedule.last])
    return SnapshotSchedule(every, last)


def steps_per_epoch(batches: int | None, accumulation: int, max_steps: int) -> int:
    """Returns the optimizer steps of one epoch.

    Args:
        batches: Micro-batches of one rank in an epoch; `None` for a dataset of unknown length. Its
            training is one epoch of `max_steps`.
        accumulation: Micro-batches per optimizer step.
        max_steps: Optimizer steps of the whole training.
    """
    if batches is None:
        return max_steps
    return max(math.ceil(batches / accumulation), 1)
