"""All observers of a trainer: asked at each moment, their records written through one door."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.background import Background
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.observer import (
    Checkpoint,
    EvaluationBatch,
    Gradients,
    Observer,
    Training,
)
from tbtrainer.records import Deferred, Record
from tbtrainer.sharding.failures import failed_on_any_rank

logger = logging.getLogger(__name__)


class ObserverSet(Observer):
    """An observer that asks others, and writes the records they return.

    An error of one observer keeps no other from being asked. Between `run_begins` and `close` the
    observers of the training are asked at all moments; outside of it, as in an evaluation without
    a training, only at those that need no training.

    Args:
        observers: In the order in which they are asked.
        write: Takes records and a step. On ranks that do not write it does nothing.
        writes: Whether this rank writes.
        isolation: What happens to an error.
        clock: Measures what the observers cost.

    Every rank has the same observers given here; those added later may differ if they do not
    communicate.
    """

    def __init__(
        self,
        observers: Iterable[Observer],
        write: Callable[[Iterable[Record], int], None],
        *,
        writes: bool,
        isolation: Isolation,
        clock: Clock,
    ) -> None:
        self._observers = list(observers)
        self._given = len(self._observers)
        self._write = write
        self._writes = writes
        self._isolation = isolation
        self._clock = clock
        self._background = Background(write, isolation)
        self.training: Training | None = None
        self._left_out: set[int] = set()
        self._last_gradients = self._last_step = self._last_run_end = -1

    def add(self, observer: Observer) -> None:
        """Adds an observer, which is asked after those that are there."""
        if not isinstance(observer, Observer):
            raise TypeError(
                f"add_observer takes an instance of a subclass of tbtrainer.Observer, not "
                f"{observer!r}."
            )
        self._observers.append(observer)

    @property
    def is_observing(self) -> bool:
        """Whether a training is observed now."""
        return self.training is not None

    # ---- The moments of a training ----

    def run_begins(self, step: int, training: Training | None) -> tuple[()]:
        """Begins a training. Observers that raise on some rank are left out on every rank.

        With several processes this is a collective, which a rank reaches also if it could not
        describe the training (`None`): nothing is observed then, on any rank.
        """
        self._left_out = set()
        failed = [
            training is None or not self._ask(observer, "run_begins", step, training)
            for observer in self._observers
        ]
        names = [type(observer).__qualname__ for observer in self._observers]
        for index, left_out in enumerate(failed_on_any_rank(names, failed, self._given)):
            if left_out:
                self._left_out.add(id(self._observers[index]))
                logger.warning(
                    "%s could not begin on every rank and is left out of this training.",
                    names[index],
                )
        self.training = training
        self._last_gradients = self._last_step = self._last_run_end = -1
        self._clock.restart()
        return ()

    def micro_batch_taken(self, step: int, loss: Tensor) -> tuple[()]:
        """Asks the observers of the training."""
        return self._ask_training("micro_batch_taken", step, loss)

    def gradients_are_due(self, step: int) -> bool:
        """Says whether the gradients of a step have to be read: once per step, in a training."""
        return self.is_observing and step != self._last_gradients

    @torch.no_grad()
    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Asks the observers of the training, once per step."""
        self._last_gradients = step
        return self._ask_training("gradients_ready", step, gradients)

    @torch.no_grad()
    def step_taken(self, step: int) -> tuple[()]:
        """Asks the observers of the training, once per step.

        `Trainer` comes here once more at the end of an epoch.
        """
        if step == self._last_step:
            return ()
        self._last_step = step
        return self._ask_training("step_taken", step)

    def logging_step(self, step: int) -> tuple[()]:
        """Asks the observers of the training."""
        return self._ask_training("logging_step", step)

    @torch.no_grad()
    def run_ends(self, step: int) -> tuple[()]:
        """Asks the observers of the training, once."""
        if step == self._last_run_end:
            return ()
        self._last_run_end = step
        return self._ask_training("run_ends", step)

    # ---- The moments of a trainer, in a training or not ----

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> tuple[()]:
        """Asks every observer."""
        return self._ask_all("entry_logged", step, entry)

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> tuple[()]:
        """Asks every observer."""
        return self._ask_all("evaluation_batch", step, batch)

    def evaluation_ended(self, step: int, metrics: Mapping[str, float]) -> tuple[()]:
        """Asks every observer."""
        return self._ask_all("evaluation_ended", step, metrics)

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> tuple[()]:
        """Asks every observer."""
        return self._ask_all("checkpoint_saved", step, checkpoint)

    def drain(self) -> None:
        """Waits until all deferred records have reached the run."""
        self._background.drain()

    def close(self) -> None:
        """Ends the training that is observed, if one is. Does not communicate."""
        training, self.training = self.training, None
        if training is not None:
            for observer in self._observers:
                with self._isolation.guard(f"close {type(observer).__name__}"):
                    observer.close()
        self._background.close()

    # ---- Asking ----

    def _ask_training(self, moment: str, step: int, *facts: Any) -> tuple[()]:
        return self._ask_all(moment, step, *facts) if self.is_observing else ()

    def _ask_all(self, moment: str, step: int, *facts: Any) -> tuple[()]:
        does_nothing = getattr(Observer, moment)
        for observer in self._observers:
            if getattr(type(observer), moment) is does_nothing or id(observer) in self._left_out:
                continue
            self._ask(observer, moment, step, *facts)
        return ()

    def _ask(self, observer: Observer, moment: str, step: int, *facts: Any) -> bool:
        """Asks one observer and writes its records; returns whether it raised nothing."""
        with self._clock.measured():
            try:
                records = list(getattr(observer, moment)(step, *facts) or ())
                if records and self._writes:
                    self._write_or_defer(records, step, _place(observer, moment))
                return True
            except Exception as error:
                self._isolation.report(_place(observer, moment), error)
                return False

    def _write_or_defer(self, records: list[Record], step: int, place: str) -> None:
        self._write([r for r in records if not isinstance(r, Deferred)], step)
        for record in records:
            if isinstance(record, Deferred):
                self._background.submit(record.make, step, place)


def _place(observer: Observer, moment: str) -> str:
    return f"observe {moment} with {type(observer).__name__}"
