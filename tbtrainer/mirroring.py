"""Chooses the trackers that get a trainer's values, and checks them before a training."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from transformers import integrations

from tbtrainer.argument_checks import checked_packages
from tbtrainer.arguments import MIRRORS, TensorBoardArguments
from tbtrainer.isolation import Isolation
from tbtrainer.observers.observer_set import ObserverSet
from tbtrainer.run import Mirrors
from tbtrainer.sharding.agreement import numbers_of_rank_zero
from tbtrainer.wrapping import wrapped_on_instance

# transformers' callback of each tracker. transformers 4.57 to 5.24 have both.
_CALLBACKS = {"wandb": "WandbCallback", "trackio": "TrackioCallback"}


def mirrors_of(trainer: Any, names: list[str], isolation: Isolation) -> Mirrors:
    """Returns the mirrors of a trainer.

    Args:
        trainer: A `Trainer`.
        names: `mirror_to` of its arguments.
        isolation: What happens to an error of a tracker.
    """
    mirrors = Mirrors(partial(_has_callback, trainer), isolation)
    mirrors.choose(names)
    return mirrors


def check_mirrors(
    mirrors: Mirrors, args: Any, given: TensorBoardArguments | None, writes: bool
) -> None:
    """Chooses the trackers of a training, and raises an error on all ranks if one has no run.

    With several processes this is a collective, whatever the arguments are: `mirror_to` may have
    been set on one rank alone. So an error of world rank zero ends the other ranks too, and none
    waits for it.

    Args:
        mirrors: Those of the trainer.
        args: The trainer's arguments, which may have changed since it was built.
        given: What was passed to the trainer; it may have converted them to `args`.
        writes: Whether this rank writes: true on world rank zero alone.

    Raises:
        ValueError: On world rank zero the message names the tracker and what to do.
    """
    chosen = args if isinstance(args, TensorBoardArguments) else given
    problem = None
    if writes:
        try:
            mirrors.choose(checked_packages("mirror_to", getattr(chosen, "mirror_to", []), MIRRORS))
            problem = mirrors.problem()
        except Exception as error:  # The other ranks wait in the collective.
            problem = str(error)
    (is_problem,) = numbers_of_rank_zero([problem is not None])
    if is_problem:
        raise ValueError(problem or "Training does not begin: world rank zero raised the reason.")


def sent_before_callbacks_end(
    trainer: Any, mirrors: Mirrors, observers: ObserverSet
) -> AbstractContextManager[None]:
    """Sends all values before the callbacks learn that the training ended, while open.

    A callback may end the run of a tracker then, as transformers' `TrackioCallback` does. wandb
    refuses later values, and Trackio sends none to a server.

    Args:
        trainer: A `Trainer`.
        mirrors: Those of the trainer.
        observers: What they have deferred is waited for.
    """
    send = partial(_send_first, mirrors, observers)
    return wrapped_on_instance(getattr(trainer, "callback_handler", None), "on_train_end", send)


def _send_first(
    mirrors: Mirrors, observers: ObserverSet, end: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if mirrors.are_chosen:
        with observers.guarded("send the last values to other trackers"):
            observers.drain()
            mirrors.close()
    return end(*args, **kwargs)


def _has_callback(trainer: Any, name: str) -> bool:
    """Whether a trainer has transformers' callback of a tracker, or one derived from it."""
    kind = getattr(integrations, _CALLBACKS[name], None)
    handler = getattr(trainer, "callback_handler", None)
    return kind is not None and any(isinstance(c, kind) for c in getattr(handler, "callbacks", ()))
