"""The steps between two logging steps: how long they took, and what the model was given."""

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from tbtrainer.observers.step_times import StepSeconds
from tbtrainer.sharding.ranks import ModelParallelSizes


@dataclass(frozen=True)
class RankFigures:
    """What a rank sends to the others at a logging step; all 0 if it has measured no step.

    Attributes:
        seconds: From the first request for data to the logging step, without evaluations and
            checkpoints.
        tokens: Tokens that the model was given, without padding.
        sequences: Rows of tokens that it was given.
        samples: Samples that it was given.
        own_seconds: The rank's own time per step, median: the wait for data and the first forward
            pass. Ranks do not wait for each other in these under DDP.
        data_seconds: The wait for data per step, median.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    sequences: float = 0.0
    samples: float = 0.0
    own_seconds: float = 0.0
    data_seconds: float = 0.0

    def numbers(self) -> tuple[float, ...]:
        """Returns the figures in the order in which they are sent."""
        return astuple(self)


RANK_FIGURES = len(fields(RankFigures))


@dataclass(frozen=True)
class Phases:
    """The time from one logging step to the next, in seconds, without evaluations and checkpoints.

    Attributes:
        data_wait: Waiting for micro-batches.
        forward_backward: Forward and backward passes.
        optimizer: Clipping and the optimizer steps.
        telemetry: What tbtrainer does.
        logging: All the rest: what `Trainer` and its callbacks do at the logging step and between
            steps.
    """

    data_wait: float
    forward_backward: float
    optimizer: float
    telemetry: float
    logging: float

    @classmethod
    def of(cls, steps: Sequence[StepSeconds], total: float, telemetry: float) -> "Phases":
        """Divides a time into its phases.

        Args:
            steps: The steps in it.
            total: The time.
            telemetry: The part of it that tbtrainer took.
        """
        data = sum(step.data for step in steps)
        forward_backward = sum(step.forward_backward for step in steps)
        optimizer = sum(step.optimizer for step in steps)
        rest = total - data - forward_backward - optimizer - telemetry
        return cls(data, forward_backward, optimizer, telemetry, max(rest, 0.0))

    @property
    def total(self) -> float:
        """The sum of all phases."""
        return (
            self.data_wait + self.forward_backward + self.optimizer + self.telemetry + self.logging
        )


@dataclass(frozen=True)
class ThroughputWindow:
    """The steps between two logging steps, without evaluations, checkpoints and logging.

    Attributes:
        steps: Their durations on this rank; at least one.
        phases: Of this rank, with logging.
        ranks: What each rank has sent.
        sizes: How many ranks share the work on one sample.
    """

    steps: Sequence[StepSeconds]
    phases: Phases
    ranks: Sequence[RankFigures]
    sizes: ModelParallelSizes

    @property
    def seconds(self) -> float:
        """The time of the window on the slowest rank."""
        return max(rank.seconds for rank in self.ranks)

    @property
    def tokens(self) -> float:
        """Of all ranks together, each counted once, without padding."""
        return sum(rank.tokens for rank in self.ranks) / self.sizes.ranks_per_token

    @property
    def samples(self) -> float:
        """Of all ranks together, each counted once."""
        return sum(rank.samples for rank in self.ranks) / self.sizes.ranks_per_sample

    @property
    def sequence_length(self) -> float:
        """Tokens per sequence on average, without padding."""
        sequences = sum(rank.sequences for rank in self.ranks) / self.sizes.ranks_per_sample
        return self.tokens / sequences if sequences > 0 else 0.0

    @property
    def data_wait_fraction(self) -> float:
        """The share of its steps that this rank waited for data, 0 to 1."""
        steps = sum(step.training for step in self.steps)
        return self.phases.data_wait / steps if steps > 0 else 0.0

    @property
    def slowest_rank(self) -> int | None:
        """The rank with the longest own time; `None` with one rank, or if a rank's is unknown."""
        own = [rank.own_seconds for rank in self.ranks]
        if len(own) < 2 or min(own) <= 0:
            return None
        return max(range(len(own)), key=own.__getitem__)

    @property
    def rank_spread(self) -> float | None:
        """The own time of `slowest_rank` as a multiple of the median; `None` if that is `None`."""
        slowest = self.slowest_rank
        if slowest is None:
            return None
        return self.ranks[slowest].own_seconds / self.median_own_seconds

    @property
    def median_own_seconds(self) -> float:
        """The median of the ranks' own times; of the two in the middle the lower one."""
        return statistics.median_low(rank.own_seconds for rank in self.ranks)
