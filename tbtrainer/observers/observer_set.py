"""All observers of a trainer: calls them at each moment and writes the records they return."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tbtrainer.isolation import Isolation
from tbtrainer.observers.background import Background
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Checkpoint, Evaluation, EvaluationBatch, Gradients, Refusal
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.observers.observer_states import load_states, states_of
from tbtrainer.records import Deferred, Record, Records
from tbtrainer.sharding.agreement import failed_on_any_rank

logger = logging.getLogger(__name__)

# A method of `Observer`, such as `Observer.step_taken`. Its name is looked up in each observer.
Moment: TypeAlias = Callable[..., Records | None]


class ObserverSet(Observer):
    """Calls several observers at each moment, and writes the records they return.

    After an error of one observer the others are still called. Between `run_begins` and `close` all
    moments reach the observers. Outside of a training, as in an evaluation before it, only log
    entries, evaluations and checkpoints do.

    Args:
        observers: In the order in which they are called. Every rank passes the same ones here.
            Those added later may differ between ranks if they do not communicate.
        write: Takes records and a step. On ranks that do not write it does nothing.
        writes: Whether this rank writes.
        isolation: What happens to an error.
        clock: Measures what the observers cost.
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
        # What the observers stored in the checkpoint that is resumed, by name.
        self.saved_states: Mapping[str, Any] = {}
        self._left_out: set[int] = set()
        # The observers to call, by moment. Looked up once, because some moments are in every step.
        self._called: dict[Moment, list[Observer]] = {}
        self._last_gradients = self._last_step = self._last_logging = self._last_run_end = -1

    def add(self, observer: Observer) -> None:
        """Adds an observer, which is called after those that are there.

        During a training its `run_begins` is called at once, on this rank alone.

        Raises:
            TypeError: It is not an instance of `Observer`.
        """
        if not isinstance(observer, Observer):
            raise TypeError(
                f"add_observer takes an instance of a subclass of tbtrainer.Observer, not "
                f"{observer!r}."
            )
        self._observers.append(observer)
        self._called = {}
        if self.training is not None:
            step = max(self._last_step, 0)
            if not self._call(observer, Observer.run_begins, step, self.training):
                self._left_out.add(id(observer))

    @property
    def is_observing(self) -> bool:
        """Whether a training is observed now."""
        return self.training is not None

    # ---- The moments of a training ----

    def run_begins(self, step: int, training: Training | None) -> tuple[()]:
        """Begins a training. An observer that raises on one rank is left out on every rank.

        With several processes this is a collective.

        Args:
            step: Optimizer steps taken so far.
            training: `None` if this rank could not describe the training. The rank then still takes
                part in the collective, and no moment of the training is observed on any rank.
        """
        self._left_out, self._called = set(), {}
        self._last_gradients = self._last_step = self._last_logging = self._last_run_end = -1
        # Now, so that `close` reaches the observers if an error passes.
        self.training = training
        with torch.no_grad():
            failed = [training is None] + [
                training is not None
                and not self._call(observer, Observer.run_begins, step, training)
                for observer in self._observers
            ]
        names = ["", *(type(observer).__qualname__ for observer in self._observers)]
        not_described, *left_out = failed_on_any_rank(names, failed, 1 + self._given)
        if not_described:
            if training is not None:
                logger.warning("This training is not observed: another rank cannot describe it.")
            self.close()
        for observer in (o for o, out in zip(self._observers, left_out, strict=True) if out):
            self._left_out.add(id(observer))
            logger.warning(
                "%s is left out of this training, because its run_begins raised an error, on "
                "another rank if not on this one.",
                type(observer).__qualname__,
            )
        self._called = {}
        if training is not None and self._writes:
            load_states(self._in_use(), self.saved_states, self._isolation)
        self._clock.restart()
        return ()

    def data_requested(self, step: int) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.data_requested, step)

    def data_received(self, step: int, micro_batches: Sequence[Any]) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.data_received, step, micro_batches)

    def forward_begins(self, step: int) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.forward_begins, step)

    def forward_done(self, step: int, loss: Tensor) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.forward_done, step, loss)

    def micro_batch_taken(self, step: int, loss: Tensor) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.micro_batch_taken, step, loss)

    def gradients_are_due(self, step: int) -> bool:
        """Returns whether the gradients of a step have to be read: once per step, in a training."""
        return self.is_observing and step != self._last_gradients

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Calls the observers, in a training. Call it once per step: see `gradients_are_due`."""
        self._last_gradients = step
        return self._call_in_training(Observer.gradients_ready, step, gradients)

    def step_taken(self, step: int) -> tuple[()]:
        """Calls the observers, in a training and once per step.

        A second call for the same step does nothing. `Trainer` makes one at the end of an epoch.
        """
        if step == self._last_step:
            return ()
        self._last_step = step
        return self._call_in_training(Observer.step_taken, step)

    def step_refused(self, step: int, refusal: Refusal) -> tuple[()]:
        """Calls the observers, in a training."""
        return self._call_in_training(Observer.step_refused, step, refusal)

    def logging_step(self, step: int) -> tuple[()]:
        """Calls the observers, in a training and once per step."""
        if step == self._last_logging:
            return ()
        self._last_logging = step
        return self._call_in_training(Observer.logging_step, step)

    def run_ends(self, step: int) -> tuple[()]:
        """Calls the observers, in a training and once per step."""
        if step == self._last_run_end:
            return ()
        self._last_run_end = step
        return self._call_in_training(Observer.run_ends, step)

    # ---- The moments of a trainer, in a training or not ----

    def entry_logged(self, step: int, entry: Mapping[str, Any]) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.entry_logged, step, MappingProxyType(dict(entry)))

    def evaluation_begins(self, step: int, dataset: str | None) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.evaluation_begins, step, dataset)

    def evaluation_batch(self, step: int, batch: EvaluationBatch) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.evaluation_batch, step, batch)

    def evaluation_ended(self, step: int, evaluation: Evaluation) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.evaluation_ended, step, evaluation)

    def checkpoint_begins(self, step: int) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.checkpoint_begins, step)

    def checkpoint_saved(self, step: int, checkpoint: Checkpoint) -> tuple[()]:
        """Calls the observers, in a training and outside of it."""
        return self._call_all(Observer.checkpoint_saved, step, checkpoint)

    def states(self) -> dict[str, Any]:
        """Returns what the observers need after a resume, by name."""
        return states_of(self._in_use(), self._isolation)

    def drain(self, seconds: float | None = None) -> None:
        """Waits until all deferred records have reached the run, or for at most `seconds`."""
        if seconds is None and not self.is_observing:
            self._background.close()  # An evaluation by itself leaves no thread behind.
        else:
            self._background.drain(seconds)

    def close(self) -> None:
        """Ends the training that is observed, if one is. Does not communicate."""
        training, self.training = self.training, None
        if training is not None:
            for observer in self._observers:
                with self._isolation.guard(f"close {type(observer).__name__}"):
                    observer.close()
        self._background.close()

    # ---- Used by all of them, and by what reports the moments ----

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Keeps an error of a block of telemetry from the training, and measures what it costs.

        Args:
            what: What the block does, as a phrase that completes "tbtrainer could not …".
        """
        with self._clock.measured(), self._isolation.guard(what):
            yield

    def _call_in_training(self, moment: Moment, step: int, *facts: Any) -> tuple[()]:
        return self._call_all(moment, step, *facts) if self.is_observing else ()

    def _call_all(self, moment: Moment, step: int, *facts: Any) -> tuple[()]:
        called = self._called.get(moment)
        if called is None:
            called = [o for o in self._in_use() if _overrides(type(o), moment)]
            self._called[moment] = called
        if called:
            # Not `torch.no_grad()`, which calls the same function (torch 2.6 to 2.13) but takes ten
            # times as long: this runs a dozen times per step.
            keeps_graphs = torch.is_grad_enabled()
            torch._C._set_grad_enabled(False)
            try:
                with self._clock.measured():
                    for observer in called:
                        self._call(observer, moment, step, *facts)
            finally:
                torch._C._set_grad_enabled(keeps_graphs)
        return ()

    def _in_use(self) -> list[Observer]:
        return [o for o in self._observers if id(o) not in self._left_out]

    def _call(self, observer: Observer, moment: Moment, step: int, *facts: Any) -> bool:
        """Calls one observer and writes its records; returns whether no error occurred."""
        # Not `guarded`, whose phrase is seldom needed.
        try:
            returned = getattr(observer, moment.__name__)(step, *facts)
            # Mostly nothing was returned. Otherwise it may be a generator, which has to run.
            if returned and (records := list(returned)) and self._writes:
                self._write_or_defer(records, step, _what(observer, moment))
            return True
        except Exception as error:
            self._isolation.report(_what(observer, moment), error)
            return False

    def _write_or_defer(self, records: list[Record], step: int, what: str) -> None:
        if ready := [record for record in records if not isinstance(record, Deferred)]:
            self._write(ready, step)
        for record in records:
            if isinstance(record, Deferred):
                self._background.submit(record.make, step, what)


def _overrides(kind: type[Observer], moment: Moment) -> bool:
    return getattr(kind, moment.__name__) is not moment


def _what(observer: Observer, moment: Moment) -> str:
    return f"observe {moment.__name__} with {type(observer).__name__}"
