"""Shows what the optimizer remembers of each parameter, such as the moments of Adam."""

import logging
from functools import partial

from tbtrainer.observers.observer import Observer
from tbtrainer.observers.optimizers import inner_optimizer, steps_in_backward
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_parameters import WatchedParameters
from tbtrainer.records import Deferred
from tbtrainer.sharding.optimizer_states import (
    MOST_STATES,
    OptimizerStates,
    StateNameExchange,
    StateNames,
)
from tbtrainer.statistics import PreviousExtremes

logger = logging.getLogger(__name__)


class OptimizerState(Observer):
    """Shows histograms of the optimizer's states that are divided like their parameters.

    They are measured after the optimizer step, at the steps of the snapshot schedule. Each state,
    such as `exp_avg`, is one snapshot, so the number of collectives does not depend on the number
    of parameters.

    The states exist only after the first step that was not skipped, and a rank with an empty slice
    of a parameter has none. Where tensors are sharded, the ranks therefore exchange the names of
    the states in one more collective at the first snapshot step, and at the following ones until a
    rank has a state.
    """

    def __init__(self) -> None:
        # `None` outside of a training, and if the states are not a target.
        self._watched: WatchedParameters | None = None
        self._states: OptimizerStates | None = None
        self._exchange: StateNameExchange | None = None
        # The states that are shown, equal on every rank; none until some are known.
        self._names: tuple[str, ...] = ()
        # One for each state. They are allocated before the training: a rank without memory at the
        # first snapshot would be missing in its collectives.
        self._previous: list[PreviousExtremes] = []
        self._warned: set[str] = set()

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Sets the rows, which are the same on every rank, and allocates the buffers."""
        self.close()
        is_target = "optimizer_state" in training.arguments.histogram_targets
        if not is_target or training.schedule.every == 0:
            return ()
        name = steps_in_backward(training.optimizer)
        if name is not None:
            if training.is_world_process_zero:
                logger.warning(
                    "Optimizer states are not shown, because %s keeps a separate optimizer for "
                    "each parameter. Everything else is shown.",
                    name,
                )
            return ()
        watched = WatchedParameters.of(training, [])
        watched.prepare()
        if watched.table.needs_reduction:
            self._exchange = StateNameExchange()
        if watched.tensors.takes_part:
            self._previous = [PreviousExtremes(watched.tensors.rows) for _ in range(MOST_STATES)]
        self._states = OptimizerStates(watched.table, inner_optimizer(training.optimizer))
        self._watched = watched
        return ()

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns the histograms of all states, if a snapshot is due.

        Raises:
            Exception: The first error of this rank, after all collectives.
        """
        watched = self._watched
        if watched is None or not watched.tensors.is_due(step) or not watched.tensors.takes_part:
            return []
        errors: list[Exception] = []
        if not self._names:
            self._find_names(watched.tensors.training, errors)
        records: list[Deferred] = []
        for name in self._names:
            try:
                records += self._histograms(watched, step, name)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return records

    def close(self) -> None:
        """Releases the optimizer, the parameters, and the buffers for collectives."""
        self._watched = self._states = self._exchange = None
        self._names, self._warned, self._previous = (), set(), []

    def _histograms(self, watched: WatchedParameters, step: int, name: str) -> list[Deferred]:
        assert self._states is not None
        snapshot = watched.tensors.take(_target(name), partial(self._states.parts, name))
        return watched.tensors.deferred(_target(name), step, snapshot)

    def _find_names(self, training: Training, errors: list[Exception]) -> None:
        """Finds the names of the states on all ranks, and says once why others are left out."""
        assert self._states is not None and self._watched is not None
        names = StateNames()
        try:
            names = self._states.names()
        except Exception as error:
            errors.append(error)
        if self._exchange is not None:
            names = self._exchange.of_all_ranks(names)
        self._names = names.shown
        for name, previous in zip(names.shown, self._previous, strict=False):
            self._watched.tensors.previous[_target(name)] = previous
        if training.is_world_process_zero and not training.was_step_skipped:
            self._explain(names, inner_optimizer(training.optimizer))

    def _explain(self, names: StateNames, optimizer: object) -> None:
        for reason, left_out in names.problems.items():
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning(
                    "Optimizer states are left out, because %s: %s. Everything else is shown.",
                    reason,
                    ", ".join(left_out),
                )
        if not names.shown and not self._warned:
            self._warned.add("")
            logger.warning(
                "No optimizer state is shown, because %s has none with a number for each element "
                "of a parameter. Everything else is shown.",
                type(optimizer).__name__,
            )


def _target(name: str) -> str:
    """Returns the target of one state, from which its tags follow."""
    return f"optimizer_state/{name}"
