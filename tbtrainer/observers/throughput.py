"""Shows how fast the training is, and where the time of a step goes."""

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from tbtrainer import tags
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Checkpoint, Evaluation
from tbtrainer.observers.model_flops import ModelFlops, compute_dtype, model_flops
from tbtrainer.observers.net_clock import Elapsed, NetClock
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.peak_flops import peak_flops
from tbtrainer.observers.step_times import StepSeconds, StepTimes
from tbtrainer.observers.throughput_window import (
    RANK_FIGURES,
    Phases,
    RankFigures,
    ThroughputWindow,
)
from tbtrainer.observers.token_counter import TokenCounter
from tbtrainer.observers.training import Training
from tbtrainer.observers.verdict import Verdict
from tbtrainer.records import Records, Scalar, Text
from tbtrainer.sharding.ranks import ModelParallelSizes, RankNumbers

logger = logging.getLogger(__name__)


class Throughput(Observer):
    """Shows rates, the duration of steps and of their phases, at logging steps.

    Evaluations and checkpoints are in none of the figures, and logging is in its own phase only. At
    a logging step the ranks gather a few numbers. At other steps nothing is sent, and nothing waits
    for the device.

    A window begins at the first request for data after a logging step, and ends at the next logging
    step. The first step of a training belongs to no window.

    Args:
        times: Measures the phases of the steps.
        clock: Measures what tbtrainer takes.
    """

    def __init__(self, times: StepTimes, clock: Clock) -> None:
        self._times = times
        self._clock = NetClock(clock)
        self._tokens = TokenCounter()
        self._training: Training | None = None
        # When the window began, and when the one before it ended; `None` if there is none.
        self._began: Elapsed | None = None
        self._ended: Elapsed | None = None

    # ---- The moments of a training ----

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Allocates what the ranks send, and counts the operations of the model."""
        self._ranks = RankNumbers(RANK_FIGURES)
        self._sizes = ModelParallelSizes.of(training.accelerator, training.unwrapped_model)
        self._peak = _peak_of(training)
        self._flops = _flops_of(training)
        self._verdict = Verdict(training.training_arguments.dataloader_num_workers)
        self._times.begin(training.device)
        self._tokens.take()
        self._began = self._ended = None
        self._training = training
        return ()

    def data_requested(self, step: int) -> tuple[()]:
        """Begins a window unless there is one."""
        # The clock is still paused after an evaluation that raised an error.
        self._clock.resume()
        if self._began is None:
            self._began = self._clock.read()
        return ()

    def data_received(self, step: int, micro_batches: Sequence[Any]) -> tuple[()]:
        """Counts tokens and samples."""
        self._tokens.add(micro_batches)
        return ()

    def evaluation_begins(self, step: int, dataset: str | None) -> tuple[()]:
        """Stops the clock of the rates."""
        return self._pause()

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> list[Scalar]:
        """Returns the duration of the evaluation of all datasets, and continues the clock."""
        if evaluation.is_part:
            return []
        self._clock.resume()
        return [Scalar(tags.EVALUATION_SECONDS.name, evaluation.seconds)]

    def checkpoint_begins(self, step: int) -> tuple[()]:
        """Stops the clock of the rates."""
        return self._pause()

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> tuple[()]:
        """Continues the clock."""
        self._clock.resume()
        return ()

    def close(self) -> None:
        """Ends the training."""
        self._training = None

    def _pause(self) -> tuple[()]:
        self._times.discard_open_step()
        self._clock.pause()
        return ()

    # ---- The logging step ----

    def logging_step(self, step: int) -> Records:
        """Ends the window, and returns its figures. With several processes it is a collective.

        Nothing is shown of a window without a measured step, such as that of the first step, and
        of one with more steps than `StepTimes` keeps.
        """
        training = self._training
        if training is None:
            return []
        steps: list[StepSeconds] = []
        phases, own, error = None, RankFigures(), None
        try:
            steps, phases, own = self._own_window()
        except Exception as caught:
            error = caught
        # Also after an error: the other ranks wait for this one.
        ranks = [RankFigures(*row) for row in self._ranks.gathered(own.numbers())]
        if error is not None:
            raise error
        if not steps or phases is None or not training.is_world_process_zero:
            return []
        window = ThroughputWindow(steps, phases, ranks, self._sizes)
        records: list[Scalar | Text] = [*_scalars(window), *_phase_scalars(window)]
        mfu = self._mfu(window, training)
        if mfu is not None:
            records.append(Scalar(tags.MFU.name, mfu))
        verdict = self._verdict.changed(window)
        return records if verdict is None else [*records, Text(tags.VERDICT.name, verdict)]

    def _own_window(self) -> tuple[list[StepSeconds], Phases | None, RankFigures]:
        """Ends the window of this rank."""
        counts = self._tokens.take()
        steps = self._times.take()
        # After the marks were read, which waits for the device.
        now = self._clock.read()
        began, self._began = self._began, None
        before, self._ended = self._ended, now
        if began is None or not steps:
            return [], None, RankFigures()
        whole = now.since(before or began)
        inside = now.since(began)
        telemetry = whole.telemetry
        if self._times.are_of_device:
            # Inside the window the host is ahead of the device, whose time counts.
            telemetry += sum(step.telemetry for step in steps) - inside.telemetry
        own = RankFigures(
            seconds=inside.total,
            tokens=counts.tokens,
            sequences=counts.sequences,
            samples=counts.samples,
            own_seconds=statistics.median(step.own for step in steps),
            data_seconds=statistics.median(step.data for step in steps),
        )
        return steps, Phases.of(steps, whole.total, telemetry), own

    def _mfu(self, window: ThroughputWindow, training: Training) -> float | None:
        """Returns the model FLOPs utilisation, 0 to 1, or `None` if it cannot be known."""
        per_token = training.arguments.flops_per_token
        if per_token is None and self._flops is not None:
            per_token = self._flops.of_token(window.sequence_length)
        if self._peak is None or per_token is None or window.tokens == 0:
            return None
        devices: int = len(window.ranks) * max(training.training_arguments.n_gpu, 1)
        achieved = window.tokens / window.seconds * per_token
        return achieved / (self._peak * devices)


def _peak_of(training: Training) -> float | None:
    """Returns the most FLOP/s of a rank's device; `None` if they are not known."""
    if training.device.type != "cuda":
        return None
    tf32 = getattr(training.training_arguments, "tf32", None)
    dtype = compute_dtype(training.accelerator, training.parameters, tf32)
    return peak_flops(torch.cuda.get_device_name(training.device), dtype)


def _flops_of(training: Training) -> ModelFlops | None:
    """Returns the operations of a token; `None` if they cannot be computed."""
    try:
        return model_flops(training.unwrapped_model, training.parameters)
    except Exception as error:  # Of a model with other attributes than those of transformers.
        logger.debug("The operations per token are not known: %s", error)
        return None


def _scalars(window: ThroughputWindow) -> list[Scalar]:
    seconds = sorted(step.training for step in window.steps)
    numbers: dict[tags.Tag, float | None] = {
        tags.STEP_SECONDS: statistics.median(seconds),
        # The nearest rank.
        tags.STEP_SECONDS_P95: seconds[math.ceil(0.95 * len(seconds)) - 1],
        tags.TOKENS_PER_SECOND: window.tokens / window.seconds if window.tokens else None,
        tags.SAMPLES_PER_SECOND: window.samples / window.seconds if window.samples else None,
        tags.DATA_WAIT_FRACTION: window.data_wait_fraction,
        tags.SLOWEST_RANK: window.slowest_rank,
        tags.RANK_SPREAD: window.rank_spread,
    }
    return [Scalar(tag.name, number) for tag, number in numbers.items() if number is not None]


def _phase_scalars(window: ThroughputWindow) -> list[Scalar]:
    return [
        Scalar(tags.STEP_PHASES.of(phase), seconds / len(window.steps))
        for phase, seconds in asdict(window.phases).items()
    ]
