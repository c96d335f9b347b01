"""Shows how the blocks of the model develop: as pictures, as tables, and as lines of files."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TypeAlias

from tbtrainer.isolation import Isolation
from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.target_history import PICTURES, TargetHistory
from tbtrainer.observers.training import Training
from tbtrainer.panels.pictures import import_before_trackio_logs
from tbtrainer.records import Deferred, Record
from tbtrainer.run import RunSession
from tbtrainer.run.earlier_blocks import earlier_blocks
from tbtrainer.statistics import Snapshot

logger = logging.getLogger(__name__)

_Read: TypeAlias = Callable[[TargetHistory, int, Snapshot], Iterable[Record]]


class BlockHistory(Observer):
    """Shows the blocks at the snapshots of a run, which other observers take.

    A snapshot is read in the thread that makes records, and nothing is measured for it. A resumed
    training continues with what the files of its run hold.

    Args:
        run: The run that is written to.
        isolation: What happens to an error of matplotlib when it is imported.
    """

    def __init__(self, run: RunSession, isolation: Isolation) -> None:
        self._run = run
        self._isolation = isolation
        self._histories: dict[str, TargetHistory] = {}
        self._draws = True
        self._has_warned = False

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Reads what the run has so far, and asks for the snapshots."""
        self._histories = {}
        if not training.is_world_process_zero or training.schedule.every == 0:
            return ()
        targets = [t for t in training.arguments.histogram_targets if t in PICTURES]
        earlier = self._earlier(step) if targets else []
        for target in targets:
            columns = [numbers for numbers in earlier if numbers.target == target]
            self._histories[target] = TargetHistory(target, training.schedule, columns)
        readers: list[_Read] = [TargetHistory.lines, TargetHistory.card]
        self._draws = bool(targets) and self._can_draw()
        if self._draws:
            readers.append(TargetHistory.picture)
            with self._isolation.guard("import matplotlib"):
                import_before_trackio_logs()
        # Each is called by itself, so that an error of one does not lose the records of the others.
        for read in readers:
            training.snapshot_readers.append(partial(_read, self._histories, read))
        return ()

    def run_ends(self, step: int) -> list[Deferred]:
        """Draws what the newest pictures do not show, as in a run that is stopped."""
        histories = list(self._histories.values()) if self._draws else []
        return [Deferred(history.last_picture) for history in histories]

    def close(self) -> None:
        """Forgets the training. What is still to be read of it has its own references."""
        self._histories = {}

    def _can_draw(self) -> bool:
        """Returns whether matplotlib is installed, and logs once that it is not."""
        found = find_spec("matplotlib")
        # A folder of the same name has no origin.
        is_installed = found is not None and found.origin is not None
        if not is_installed and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The pictures in model_depth/ are not drawn, because matplotlib is not installed. "
                "Everything else is shown."
            )
        return is_installed

    def _earlier(self, step: int) -> list[BlockNumbers]:
        """Returns the numbers that the run holds up to a step; none if it is a new run."""
        if step == 0 or not self._run.is_open:
            return []
        lines = earlier_blocks(str(self._run.writer.log_dir), step)
        found = [BlockNumbers.from_line(line["target"], line) for line in lines]
        return [numbers for numbers in found if numbers is not None]


def _read(
    histories: Mapping[str, TargetHistory],
    read: _Read,
    target: str,
    step: int,
    snapshot: Snapshot,
) -> Iterable[Record]:
    """Reads a snapshot for a target that is shown; see `SnapshotReader`."""
    return read(histories[target], step, snapshot) if target in histories else ()
