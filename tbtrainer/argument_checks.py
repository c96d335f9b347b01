"""Checks of arguments: each returns the value, or raises an error that says what is allowed.

Every error is a `ValueError` that names the field, the value and what is allowed.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any

from transformers.trainer_utils import IntervalStrategy

from tbtrainer.panels.panel import Panel, PanelName


def checked_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Returns one of the choices that are allowed, as text."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(allowed)}.")
    return str(value)


def checked_flag(name: str, value: Any) -> bool:
    """Returns a value that is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed; use True or False.")
    return value


def checked_strategy(name: str, value: Any) -> IntervalStrategy:
    """Returns a strategy that is given as an `IntervalStrategy` or by its name."""
    allowed = tuple(strategy.value for strategy in IntervalStrategy)
    return IntervalStrategy(checked_choice(name, getattr(value, "value", value), allowed))


def checked_steps_or_ratio(name: str, value: Any) -> float:
    """Returns a whole number of steps, or a ratio of all steps between 0 and 1."""
    problem = f"{name}={value!r} is neither a whole number of steps nor a ratio below 1"
    if not _is_number(value, Real) or not value > 0:
        raise ValueError(
            f"{problem}; it has to be above 0. histogram_strategy='no' switches histograms off."
        )
    if value < 1:
        return float(value)
    if math.isinf(value) or value != int(value):
        raise ValueError(f"{problem}; for every second step use 2.")
    return int(value)


def checked_whole_number(name: str, value: Any, low: int, high: int) -> int:
    """Returns a whole number within bounds, both included."""
    if not _is_number(value, Integral) or not low <= value <= high:
        raise ValueError(
            f"{name}={value!r} is not allowed; use a whole number from {low} to {high}."
        )
    return int(value)


def checked_positive_number(name: str, value: Any) -> float | None:
    """Returns a finite number above 0; `None` stays `None`."""
    if value is None:
        return None
    if not _is_number(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} is not allowed; use a number above 0, or None.")
    return float(value)


def checked_targets(name: str, value: Any, allowed: tuple[str, ...]) -> list[str]:
    """Returns the names of targets, each once, in the order of `allowed`."""
    targets = _listed(name, value)
    for target in targets:
        checked_choice(name, target, allowed)
    if not targets:
        raise ValueError(
            f"{name}={value!r} is empty; name {' or '.join(allowed)}, "
            "or switch histograms off with histogram_strategy='no'."
        )
    return sorted(set(targets), key=allowed.index)


def checked_packages(name: str, value: Any, allowed: tuple[str, ...]) -> list[str]:
    """Returns names of packages that are installed, each once, in the order of `allowed`."""
    packages = _listed(name, value)
    for package in packages:
        checked_choice(name, package, allowed)
        found = find_spec(package)
        # A folder of the same name, such as the one that wandb makes, has no origin.
        if found is None or found.origin is None:
            raise ValueError(
                f"{name}={value!r} needs the package {package}, which is not installed; run "
                f"`pip install {package}`, or leave it out."
            )
    return sorted(set(packages), key=allowed.index)


def checked_panels(name: str, value: Any, known: tuple[str, ...]) -> list[Any]:
    """Returns names of panels and instances of `Panel`, given as a list or as one of them."""
    panels = [value] if isinstance(value, Panel | type) else _listed(name, value)
    for panel in panels:
        if isinstance(panel, type) and issubclass(panel, Panel):
            raise ValueError(
                f"{name}={panel!r} is a class; use an instance of it, such as {panel.__name__}()."
            )
        if isinstance(panel, PanelName):
            continue
        if not isinstance(panel, Panel):
            checked_choice(name, panel, ("auto", "none", *known))
        elif not isinstance(panel.name, str) or not panel.name:
            raise ValueError(f"{name}={panel!r} has the name {panel.name!r}; use a text as `name`.")
    names = [panel.name if isinstance(panel, Panel) else panel for panel in panels]
    if not panels or ("none" in names and len(names) > 1):
        raise ValueError(
            f"{name}={value!r} is not allowed; use 'none' alone, or 'auto', names of panels and "
            "instances of Panel."
        )
    _check_names(name, value, panels, known)
    return panels


def _check_names(name: str, value: Any, panels: Sequence[Any], known: tuple[str, ...]) -> None:
    texts = [panel for panel in panels if not isinstance(panel, Panel)]
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise ValueError(f"{name}={value!r} has {str(twice[0])!r} twice; once is enough.")
    own = [panel.name for panel in panels if isinstance(panel, Panel)]
    taken = [one for one in own if own.count(one) > 1 or one in texts or one in known]
    if taken:
        raise ValueError(
            f"{name}={value!r} has several panels of the name {taken[0]!r}; give each one a `name` "
            "of its own."
        )


def checked_prompts(name: str, value: Any, most: int) -> list[str] | None:
    """Returns texts that are not empty, given as a list or as one text; `None` stays `None`."""
    if value is None:
        return None
    prompts = _listed(name, value)
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{name}={prompt!r} is not allowed; each prompt has to be a text.")
    if len(prompts) > most:
        raise ValueError(f"{name}={prompts!r} has {len(prompts)} prompts; use at most {most}.")
    return prompts


def checked_patterns(name: str, value: Any) -> list[str] | None:
    """Returns regular expressions, given as a list or as one text; `None` stays `None`."""
    if value is None:
        return None
    patterns = _listed(name, value)
    if not patterns:
        raise ValueError(f"{name}={value!r} is empty; use None for no choice by name.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"{name}={pattern!r} is not a regular expression ({error}); "
                "a dot or bracket that is meant literally needs a backslash."
            ) from error
    return patterns


def checked_directory(name: str, value: Any) -> str | None:
    """Returns a path with `~` expanded, or `None`."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ValueError(
            f"{name}={value!r} is not a path; give the run directory as text, or None."
        )
    return os.path.expanduser(os.fspath(value))


def _listed(name: str, value: Any) -> list[Any]:
    """Returns a list of what may be one text or several."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise ValueError(f"{name}={value!r} is not allowed; use a text or a list of texts.")
    return list(value)


def _is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind, Python's or NumPy's, and no truth value."""
    return isinstance(value, kind) and not isinstance(value, bool)
