"""The names of the metrics that evaluations have, and of the datasets that are evaluated."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tbtrainer.observers.facts import Evaluation
from tbtrainer.redaction import redacted_name

# More are not remembered: they are not looked at side by side.
MOST_NAMES = 40
_LONGEST_NAME = 200
# What `Trainer` adds to the metrics: how long the evaluation took.
_ABOUT_SPEED = re.compile(r".*(_per_second|runtime|jit_compilation_time|model_preparation_time)")


class EvaluationMetrics:
    """Remembers the names of metrics in the order in which they are seen, without secrets.

    Attributes:
        names: Of the metrics that are numbers, such as `accuracy`, without those about speed.
        datasets: Keys of a dictionary of datasets; empty for a single one.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.datasets: list[str] = []

    def add(self, evaluation: Evaluation) -> None:
        """Remembers what an evaluation has."""
        if evaluation.dataset is not None:
            prefix = f"eval_{evaluation.dataset}_"
            if any(key.startswith(prefix) for key in evaluation.metrics):
                _add(self.datasets, [evaluation.dataset])
        prefixes = [f"eval_{dataset}_" for dataset in self.datasets]
        for key, value in evaluation.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            # The longest: a dataset may be called `mnli`, and another one `mnli_mm`.
            prefix = max(filter(key.startswith, prefixes), key=len, default="eval_")
            name = key.removeprefix(prefix)
            if key.startswith("eval_") and not _ABOUT_SPEED.fullmatch(name):
                _add(self.names, [redacted_name(name)])

    def tags(self) -> list[str]:
        """Returns the tags of all metrics, those of one metric next to each other."""
        parts = [f"{dataset}_" for dataset in self.datasets] or [""]
        return [f"eval/{part}{name}" for name in self.names for part in parts]

    def state(self) -> dict[str, Any]:
        """Returns what is needed after a resume."""
        return {"metrics": list(self.names), "datasets": list(self.datasets)}

    def load_state(self, state: Any) -> None:
        """Continues from what `state` returned. A checkpoint may come from any source.

        Raises:
            ValueError: It is not what `state` returns.
        """
        if not isinstance(state, Mapping):
            raise ValueError("the state of the metrics is not an object")
        for names, key in ((self.names, "metrics"), (self.datasets, "datasets")):
            _add(names, _checked(state.get(key)))


def _add(names: list[str], more: Iterable[str]) -> None:
    for name in more:
        if name not in names and len(names) < MOST_NAMES:
            names.append(name)


def _checked(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the state of the metrics has names that are not text")
    return [redacted_name(name) for name in names if 0 < len(name) <= _LONGEST_NAME]
