"""Weights & Biases as the target of a mirror."""

import sys
from typing import Any

from tbtrainer.records import Histogram
from tbtrainer.run.tracker import STEP_KEY, Row, numpy_histogram


class WandbTracker:
    """Adds rows to the run that `wandb.init` began, with `train/global_step` as the axis.

    wandb numbers its rows itself and refuses a number that is lower than the last one. A histogram
    is ready later than the scalars of its step, so rows are not in the order of their steps.
    Therefore the step is a value of the row, and `define_metric` makes it the axis of each tag.
    """

    name = "wandb"
    how_to_begin = "wandb.init(project=...)"

    def __init__(self) -> None:
        # The run whose metrics are defined, and their names.
        self._run: Any = None
        self._defined: set[str] = set()

    def current_run(self) -> Any | None:
        """Returns `wandb.run`, also if the program has not imported wandb."""
        return getattr(sys.modules.get("wandb"), "run", None)

    def follows_event_files(self) -> bool:
        """Returns whether `sync_tensorboard=True` or `wandb.tensorboard.patch` is in effect."""
        # wandb 0.17 to 0.31 list there what they have replaced in torch and tensorboard.
        patched = getattr(sys.modules.get("wandb"), "patched", None) or {}
        return bool(patched.get("tensorboard"))

    def send(self, run: Any, step: int, row: Row) -> None:
        """Logs one row. wandb takes histograms of up to 512 buckets."""
        self._define(run, row)
        kind = sys.modules["wandb"].Histogram
        values = {
            tag: kind(np_histogram=numpy_histogram(value, kind.MAX_LENGTH))
            if isinstance(value, Histogram)
            else value
            for tag, value in row.items()
        }
        run.log({**values, STEP_KEY: step})

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy, which holds no run: a copied run is another one."""
        return {"_run": None, "_defined": set()}

    def _define(self, run: Any, row: Row) -> None:
        """Makes the step the axis of tags that are new in a run."""
        if run is not self._run:
            self._run, self._defined = run, set()
            run.define_metric(STEP_KEY)
        # wandb would read a star as a pattern of names.
        for tag in [tag for tag in row if tag not in self._defined and "*" not in tag]:
            run.define_metric(tag, step_metric=STEP_KEY)
            self._defined.add(tag)
