"""Shows learning rate and weight decay of the parameter groups, where they differ."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tbtrainer import tags
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.training import Training
from tbtrainer.records import Scalar

# Steps whose rates are kept for `rates_at`.
KEPT_STEPS = 512

# What belongs to one group alone, and what changes during a training, is not a setting.
_NO_SETTINGS = frozenset({"params", "param_names", "lr", "name"})


class LearningRates(Observer):
    """Shows the rate of each parameter group as soon as two groups have had different rates.

    The rates are read when the gradients are ready, before the scheduler sets those of the next
    step, so they agree with `train/learning_rate`. Groups that were given the same settings are
    one, because some optimizers split a group by device mesh. Groups whose rates have always been
    equal share one curve.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._optimizer: Any = None
        # The place of each group in `param_groups`, by name.
        self._places: dict[str, int] = {}
        self._groups_seen = 0
        self._rates: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._decays: dict[str, Any] = {}
        # Names of groups whose values have been equal so far; the first one names the curve.
        self._equal_rates: list[list[str]] = []
        self._equal_decays: list[list[str]] = []

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Finds the groups that were given different settings."""
        self._forget()
        self._optimizer = _with_groups(training.optimizer, training.model)
        self._find_groups()
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Keeps the values of this step, without waiting for those on a device."""
        groups = _groups_of(self._optimizer)
        if len(groups) != self._groups_seen:
            self._find_groups()
        self._rates[step] = {name: _kept(groups[i]["lr"]) for name, i in self._places.items()}
        self._decays = {name: groups[i].get("weight_decay") for name, i in self._places.items()}
        if len(self._rates) > KEPT_STEPS:
            self._rates.popitem(last=False)
        return ()

    def logging_step(self, step: int) -> list[Scalar]:
        """Returns the rates of the last step if they differ, and the decays if those do, too."""
        if not self._rates:
            return []
        rates = _numbers(next(reversed(self._rates.values())))
        decays = _numbers(self._decays)
        self._equal_rates = split_where_different(self._equal_rates, rates)
        self._equal_decays = split_where_different(self._equal_decays, decays)
        if len(self._equal_rates) < 2:
            return []
        records = [
            Scalar(tags.LEARNING_RATE.of(names[0]), rates[names[0]]) for names in self._equal_rates
        ]
        if len(self._equal_decays) > 1:
            records += [
                Scalar(tags.WEIGHT_DECAY.of(names[0]), decays[names[0]])
                for names in self._equal_decays
                if names[0] in decays
            ]
        return records

    def rates_at(self, step: int) -> dict[str, float]:
        """Returns the learning rates that an optimizer step was taken with.

        It waits for the device if the optimizer keeps its rates there.

        Args:
            step: The step, counted from 1. The last `KEPT_STEPS` steps are kept.

        Returns:
            The rates by name of the group, groups of equal rates once; empty if the step is not
            kept. With one rate for all it is like `{"group_0": 5e-05}`.
        """
        rates = _numbers(self._rates.get(step, {}))
        return {names[0]: rates[names[0]] for names in split_where_different([[*rates]], rates)}

    def close(self) -> None:
        """Releases the optimizer. The rates are kept."""
        self._optimizer, self._places, self._groups_seen = None, {}, 0

    def _find_groups(self) -> None:
        groups = _groups_of(self._optimizer)
        known = set(self._places)
        self._places = distinct_groups(groups)
        self._groups_seen = len(groups)
        added = [name for name in self._places if name not in known]
        # New groups share the first curve until their values differ.
        for equal in (self._equal_rates, self._equal_decays):
            equal[:1] = [[*(equal[0] if equal else ()), *added]]


def distinct_groups(groups: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns the groups that were given different settings.

    Args:
        groups: `param_groups` of an optimizer.

    Returns:
        The place of the first group of each kind, by name. The name is the group's own `name` if no
        earlier kind has it, else `group_0` and so on, counted over the kinds.
    """
    places: dict[Hashable, int] = {}
    for place, group in enumerate(groups):
        places.setdefault(_settings(group), place)
    named: dict[str, int] = {}
    for kind, place in enumerate(places.values()):
        name = str(groups[place].get("name", f"group_{kind}"))
        named[f"group_{kind}" if name in named else name] = place
    return named


def split_where_different(
    equal: Sequence[Sequence[str]], values: Mapping[str, float]
) -> list[list[str]]:
    """Splits lists of names so that the names of one list have the same value.

    A list is never joined with another, and its first name stays first, so curves that are named
    after it keep their names.

    Example:
        >>> split_where_different([["a", "b", "c"]], {"a": 1.0, "b": 2.0, "c": 1.0})
        [['a', 'c'], ['b']]
    """
    split: list[list[str]] = []
    for names in equal:
        by_value: dict[float | None, list[str]] = {}
        for name in names:
            by_value.setdefault(values.get(name), []).append(name)
        split += by_value.values()
    return split


def _with_groups(optimizer: Any, model: Any) -> Any:
    """Returns the optimizer, or that of DeepSpeed's engine if `optimizer` has no groups."""
    return optimizer if _groups_of(optimizer) else getattr(model, "optimizer", None)


def _groups_of(optimizer: Any) -> Sequence[Mapping[str, Any]]:
    return getattr(optimizer, "param_groups", None) or ()


def _settings(group: Mapping[str, Any]) -> Hashable:
    # A scheduler sets `initial_lr` once. Without a scheduler `lr` does not change either.
    rate = group.get("initial_lr", group.get("lr"))
    others = sorted((key, repr(value)) for key, value in group.items() if key not in _NO_SETTINGS)
    return repr(rate), group.get("name"), tuple(others)


def _kept(rate: Any) -> Any:
    """Returns a rate as it is now: schedulers change a tensor in place."""
    return rate.detach().clone() if isinstance(rate, Tensor) else rate


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
