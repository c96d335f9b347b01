"""Trackio as the target of a mirror."""

import contextlib
import importlib
import sys
from typing import Any

from tbtrainer.records import Histogram
from tbtrainer.run.tracker import STEP_KEY, Row, numpy_histogram

# If one of these is half imported in another thread, trackio 0.43 leaves out all scalars that are
# logged meanwhile: it asks whether they are figures (`TrackioHtml.is_loggable_figure`).
_MODULES_OF_FIGURES = ("plotly.basedatatypes", "matplotlib.animation", "matplotlib.figure")


class TrackioTracker:
    """Adds rows to the run that `trackio.init` began.

    Trackio takes steps in any order. The rows also have `train/global_step`, as those of
    transformers' `TrackioCallback`, so that both can be drawn over the same axis.
    """

    name = "trackio"
    how_to_begin = "trackio.init(project=...)"

    def current_run(self) -> Any | None:
        """Returns the run of this context, also if the program has not imported trackio."""
        module = sys.modules.get("trackio")
        return None if module is None else module.context_vars.current_run.get()

    def follows_event_files(self) -> bool:
        """Returns `False`: trackio 0.43 imports event files only when it is asked to."""
        return False

    def send(self, run: Any, step: int, row: Row) -> None:
        """Logs one row at its step."""
        _wait_for_imports()
        kind = sys.modules["trackio"].Histogram
        values = {
            tag: kind(np_histogram=numpy_histogram(value))
            if isinstance(value, Histogram)
            else value
            for tag, value in row.items()
        }
        run.log({**values, STEP_KEY: step}, step=step)


def _wait_for_imports() -> None:
    """Waits until another thread that imports a library of figures has imported it."""
    for name in _MODULES_OF_FIGURES:
        if name in sys.modules:
            with contextlib.suppress(Exception):  # Of that library: the other thread gets it too.
                importlib.import_module(name)
