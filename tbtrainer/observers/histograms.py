"""Shows histograms of parameters and gradients: of whole tensors, also when they are sharded."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_parameters import WatchedParameters
from tbtrainer.records import Deferred
from tbtrainer.statistics import Snapshot

_TARGETS = ("parameters", "gradients")


class Histograms(Observer):
    """Shows histograms of parameters and gradients, at the steps of the snapshot schedule.

    A snapshot costs three collectives under sharding, up to 18 in models of many parameters, and
    none otherwise. On a CPU the training waits for the measurement; on an accelerator it does not
    wait. The histograms are made from the snapshot in another thread.

    Attributes:
        parameters_step: The step of the newest snapshot of the parameters; -1 without one.
        parameter_squares: The sum of the squares of each row of that snapshot: NaN where a
            parameter is not finite, or was not measured on every rank. float64, shape (rows,), on
            the device of the rows. `None` if this rank has no snapshot.
    """

    def __init__(self) -> None:
        # `None` outside of a training: the rows hold its parameters.
        self._watched: WatchedParameters | None = None
        self._chosen: list[str] = []
        self.parameters_step = -1
        self.parameter_squares: Tensor | None = None

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Sets the rows, which are the same on every rank, and allocates the buffers.

        Kernels are compiled here, so that the first snapshot does not wait for the compiler.
        """
        self._chosen = [t for t in training.arguments.histogram_targets if t in _TARGETS]
        self._watched = WatchedParameters.of(training, self._chosen)
        self._watched.prepare()
        self.parameters_step = -1
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> list[Deferred]:
        """Returns the histograms of the gradients, if a snapshot is due."""
        watched = self._watched
        if watched is None or "gradients" not in self._chosen or not watched.tensors.is_due(step):
            return []
        table = watched.table

        def parts() -> Sequence[Tensor | None]:
            if gradients is None:
                raise RuntimeError("the gradients could not be read")
            return table.measurable("gradient", table.selected(gradients.parts))

        loss_scale = None if gradients is None else gradients.loss_scale
        snapshot = watched.tensors.take("gradients", parts, loss_scale)
        return watched.tensors.deferred("gradients", step, snapshot)

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, if a snapshot is due."""
        is_due = self._watched is not None and self._watched.tensors.is_due(step)
        return self._parameters(step) if is_due else []

    def run_ends(self, step: int) -> list[Deferred]:
        """Returns the histograms of the parameters, unless `step_taken` did at this step."""
        watched = self._watched
        takes_any = watched is not None and watched.tensors.training.schedule.every > 0
        return self._parameters(step) if takes_any else []

    def close(self) -> None:
        """Releases the parameters, and the buffers for collectives."""
        self._watched = self.parameter_squares = None

    def _parameters(self, step: int) -> list[Deferred]:
        watched = self._watched
        if watched is None or "parameters" not in self._chosen or step == self.parameters_step:
            return []
        self.parameters_step, self.parameter_squares = step, None
        snapshot = watched.tensors.take("parameters", watched.table.parameters)
        if snapshot is not None:
            self.parameter_squares = _complete_squares(snapshot)
        return watched.tensors.deferred("parameters", step, snapshot)


def _complete_squares(snapshot: Snapshot) -> Tensor:
    """Returns the sum of squares of each row, and NaN where some elements are not in it."""
    statistics = snapshot.statistics
    is_complete = (statistics.nonfinite == 0) & (snapshot.failed_ranks == 0)
    return torch.where(is_complete, statistics.sum_of_squares, torch.nan)
