"""How long the phases of optimizer steps take, on the host or on a CUDA device."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.observer import Observer

# Steps whose CUDA events are kept before those that have passed are read.
_PENDING_STEPS = 64
# Most steps that are kept between two calls of `take`: without logging steps there is no call.
_MOST_STEPS = 2**18


class Mark(IntEnum):
    """The boundaries of the phases of a step, in the order in which they come."""

    DATA_REQUESTED = 0
    DATA_RECEIVED = 1
    FORWARD_BEGINS = 2
    FORWARD_DONE = 3
    GRADIENTS_READY = 4
    GRADIENTS_SHOWN = 5
    STEP_TAKEN = 6
    STEP_SHOWN = 7


# A trainer whose `training_step` does not call `compute_loss` does not show its forward pass.
_FORWARD = frozenset({Mark.FORWARD_BEGINS, Mark.FORWARD_DONE})
_NEEDED = frozenset(Mark) - _FORWARD


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """The phases of one optimizer step, in seconds.

    Attributes:
        data: Waiting for the micro-batches.
        own: `data`, and the forward pass of the first micro-batch. In DDP a rank does not wait for
            others in either. 0 if the forward pass was not seen.
        forward_backward: From the micro-batches to the complete gradients.
        optimizer: Clipping and the optimizer step.
        telemetry: What tbtrainer does on the device when the gradients are complete and when the
            step was taken. 0 if the marks are of the host's clock, which does not run during it.
    """

    data: float
    own: float
    forward_backward: float
    optimizer: float
    telemetry: float

    @property
    def training(self) -> float:
        """The step without telemetry."""
        return self.data + self.forward_backward + self.optimizer


class StepTimes:
    """Marks the boundaries between the phases of each step, and measures between them when asked.

    On a CUDA device the marks are events in the stream of the training. The time between two of
    them is what the device needed. If it waits for data, there is a gap between two events. Marking
    never waits for the device. Elsewhere the marks are readings of a clock that does not run while
    the training loop is in tbtrainer.

    Args:
        clock: Gives the time on the host.

    Attributes:
        are_of_device: Whether the marks are events on a device.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin(torch.device("cpu"))

    def begin(self, device: torch.device) -> None:
        """Begins a training, without steps.

        Args:
            device: Where the model is trained.
        """
        self._device = device
        self.are_of_device = device.type == "cuda"
        self._open: dict[Mark, Any] = {}
        self._ended: deque[dict[Mark, Any]] = deque()
        # `None` after more than `_MOST_STEPS`.
        self._measured: list[StepSeconds] | None = []

    def mark(self, boundary: Mark) -> tuple[()]:
        """Marks a boundary. Of several marks of one boundary in a step the first counts.

        `DATA_REQUESTED` begins a step, and discards one that has not ended. `STEP_SHOWN` ends it. A
        step that lacks a mark is left out.
        """
        if boundary is Mark.DATA_REQUESTED:
            self._open = {}
        if boundary not in self._open:
            of_device = self.are_of_device
            self._open[boundary] = self._event() if of_device else self._clock.training_seconds()
        if boundary is Mark.STEP_SHOWN:
            marks, self._open = self._open, {}
            if marks.keys() >= _NEEDED:
                self._ended.append(marks)
            if len(self._ended) > _PENDING_STEPS:
                self._measure_those_that_passed()
        return ()

    def discard_open_step(self) -> None:
        """Leaves out the step that has begun, because something else happens inside it."""
        self._open = {}

    def take(self) -> list[StepSeconds]:
        """Returns the steps since the last call. On CUDA it waits for the last of them.

        Returns:
            The steps; an empty list if there were more than 262,144, whose times are not kept.
        """
        if self._ended and self.are_of_device:
            self._ended[-1][Mark.STEP_SHOWN].synchronize()
        while self._ended:
            self._measure(self._ended.popleft())
        taken, self._measured = self._measured, []
        return taken or []

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no marks, because events of a device cannot be copied."""
        return {**vars(self), "_open": {}, "_ended": deque()}

    def _measure_those_that_passed(self) -> None:
        while self._ended and _has_passed(self._ended[0][Mark.STEP_SHOWN]):
            self._measure(self._ended.popleft())

    def _measure(self, marks: dict[Mark, Any]) -> None:
        if self._measured is not None:
            self._measured.append(_measured(marks))
            if len(self._measured) > _MOST_STEPS:
                # A part of the steps would not agree with the time of the whole window.
                self._measured = None

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class StepMarks(Observer):
    """Marks the boundaries of the phases, before other observers do their work at each moment.

    Args:
        times: Keeps the marks.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times

    def data_requested(self, step: int) -> tuple[()]:
        """Begins a step."""
        return self._times.mark(Mark.DATA_REQUESTED)

    def data_received(self, step: int, micro_batches: Sequence[Any]) -> tuple[()]:
        """Marks the end of the wait for data."""
        return self._times.mark(Mark.DATA_RECEIVED)

    def forward_begins(self, step: int) -> tuple[()]:
        """Marks the beginning of the first forward pass."""
        return self._times.mark(Mark.FORWARD_BEGINS)

    def forward_done(self, step: int, loss: Tensor) -> tuple[()]:
        """Marks the end of the first forward pass."""
        return self._times.mark(Mark.FORWARD_DONE)

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Marks the end of the backward pass. Under DeepSpeed the optimizer step is next, too."""
        return self._times.mark(Mark.GRADIENTS_READY)

    def step_taken(self, step: int) -> tuple[()]:
        """Marks the end of the optimizer step."""
        return self._times.mark(Mark.STEP_TAKEN)


class TelemetryMarks(Observer):
    """Marks the end of the work of the other observers, so it has to be called after them.

    Args:
        times: Keeps the marks.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Marks the beginning of the optimizer phase."""
        return self._times.mark(Mark.GRADIENTS_SHOWN)

    def step_taken(self, step: int) -> tuple[()]:
        """Ends a step."""
        return self._times.mark(Mark.STEP_SHOWN)


def _has_passed(moment: Any) -> bool:
    return isinstance(moment, float) or bool(moment.query())


def _measured(marks: dict[Mark, Any]) -> StepSeconds:
    def between(begin: Mark, end: Mark) -> float:
        if isinstance(marks[begin], float):
            return float(marks[end] - marks[begin])
        return float(marks[begin].elapsed_time(marks[end])) / 1000  # From milliseconds.

    data = between(Mark.DATA_REQUESTED, Mark.DATA_RECEIVED)
    saw_forward = marks.keys() >= _FORWARD
    return StepSeconds(
        data=data,
        own=data + between(Mark.FORWARD_BEGINS, Mark.FORWARD_DONE) if saw_forward else 0.0,
        forward_backward=between(Mark.DATA_RECEIVED, Mark.GRADIENTS_READY),
        optimizer=between(Mark.GRADIENTS_SHOWN, Mark.STEP_TAKEN),
        telemetry=between(Mark.GRADIENTS_READY, Mark.GRADIENTS_SHOWN)
        + between(Mark.STEP_TAKEN, Mark.STEP_SHOWN),
    )
