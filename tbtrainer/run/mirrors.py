"""The mirrors of a trainer: the trackers in `mirror_to` that get its scalars and histograms."""

import time
from collections.abc import Callable, Sequence

from tbtrainer.event_file.waiting import CLOSE_SECONDS
from tbtrainer.isolation import Isolation
from tbtrainer.records import HistogramRecord, Record, Scalar
from tbtrainer.run.mirror import Mirror, Value
from tbtrainer.run.tracker import Tracker
from tbtrainer.run.trackio_tracker import TrackioTracker
from tbtrainer.run.wandb_tracker import WandbTracker

TRACKERS: dict[str, Callable[[], Tracker]] = {"wandb": WandbTracker, "trackio": TrackioTracker}


def _has_none(name: str) -> bool:
    """Says that a trainer has no callback. Not a lambda: a copy of a run is pickled with it."""
    return False


class Mirrors:
    """Passes the records of a run to the mirrors of the trackers that the user chose.

    Used on world rank zero alone. A tracker gets each value once: not if it reads the event files
    itself, and not from here if a callback of the trainer passes it on.

    Args:
        has_callback: Whether the trainer has transformers' callback of a tracker, by name. It
            begins a run when the training begins, and logs what `Trainer.log` logs.
        isolation: What happens to an error.
    """

    def __init__(
        self,
        has_callback: Callable[[str], bool] = _has_none,
        isolation: Isolation | None = None,
    ) -> None:
        self._has_callback = has_callback
        self._isolation = isolation or Isolation("raise")
        self._mirrors: dict[str, Mirror] = {}

    @property
    def are_chosen(self) -> bool:
        """Whether any tracker gets values."""
        return bool(self._mirrors)

    def choose(self, names: Sequence[str]) -> None:
        """Sets the trackers by their names in `TRACKERS`. Those that stay keep their values."""
        self._mirrors = {
            name: self._mirrors.get(name) or Mirror(TRACKERS[name](), self._isolation)
            for name in names
        }

    def problem(self) -> str | None:
        """Returns why a training cannot be mirrored, or `None`.

        Warns once per tracker that reads the event files itself.
        """
        for name, mirror in self._mirrors.items():
            tracker = mirror.tracker
            if tracker.follows_event_files():
                mirror.warn_once(
                    f"{name} reads the event files of this process itself, as with "
                    f"sync_tensorboard=True. So mirror_to=[{name!r}] does nothing, and no value "
                    "comes twice."
                )
            elif tracker.current_run() is None and not self._has_callback(name):
                return (
                    f"mirror_to={list(self._mirrors)!r}: {name} has no run, and tbtrainer begins "
                    f"none. Call {tracker.how_to_begin} before train(), or leave {name!r} out."
                )
        return None

    def put(self, record: Record, step: int) -> None:
        """Passes a record on if it is a scalar or a histogram.

        Args:
            record: What the run has written.
            step: The step it was written at.
        """
        if not self._mirrors or not isinstance(record, Scalar | HistogramRecord):
            return
        for name, mirror in self._mirrors.items():
            with self._isolation.guard(f"mirror values to {name}"):
                if not self._comes_by_itself(record, mirror.tracker):
                    self._put(record, step, mirror)

    def _comes_by_itself(self, record: Scalar | HistogramRecord, tracker: Tracker) -> bool:
        """Whether a tracker gets a value without its mirror."""
        is_logged = isinstance(record, Scalar) and record.is_logged
        return tracker.follows_event_files() or (is_logged and self._has_callback(tracker.name))

    def _put(self, record: Scalar | HistogramRecord, step: int, mirror: Mirror) -> None:
        run = mirror.tracker.current_run()
        if run is None:
            name = mirror.tracker.name
            mirror.warn_once(
                f"Values are not mirrored to {name}, because it has no run now. To begin one, call "
                f"{mirror.tracker.how_to_begin}. The event file has all values."
            )
            return
        shown = record.histogram if isinstance(record, HistogramRecord) else float(record.value)
        mirror.put(Value(run, step, record.tag, shown))

    def flush(self) -> None:
        """Makes the threads send the waiting values now, and does not wait for them."""
        for mirror in self._mirrors.values():
            mirror.flush()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Waits at most `seconds` until all values are sent, and warns if some are not."""
        deadline = time.monotonic() + seconds
        self.flush()  # So that none waits for another one that hangs.
        for mirror in self._mirrors.values():
            mirror.close(max(0.0, deadline - time.monotonic()))
