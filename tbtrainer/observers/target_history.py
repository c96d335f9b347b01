"""`TargetHistory`: the numbers of the blocks of one target, snapshot by snapshot."""

import json
from collections.abc import Iterable, Iterator

from tbtrainer import tags
from tbtrainer.observers.block_numbers import BlockNumbers
from tbtrainer.observers.depth_picture import depth_picture
from tbtrainer.observers.kept_snapshots import MOST_KEPT, KeptSnapshots
from tbtrainer.observers.outlier_table import outlier_card
from tbtrainer.observers.schedule import SnapshotSchedule
from tbtrainer.reading.block_lines import file_of_blocks
from tbtrainer.records import Image, JsonLine, Text
from tbtrainer.statistics import Snapshot
from tbtrainer.tag import Tag

# Tag of the picture of each target, and what its colours show.
PICTURES: dict[str, tuple[Tag, str]] = {
    "gradients": (tags.GRADIENT_DEPTH, "RMS of the gradients of each block"),
    "parameters": (tags.PARAMETER_DEPTH, "RMS of the parameters of each block"),
    "updates": (tags.UPDATE_DEPTH, "RMS of the update over RMS of the parameters"),
    "activations": (tags.ACTIVATION_DEPTH, "RMS of the outputs of each block"),
}
# The file of a target must not become longer than 1 MiB. A line usually needs so many bytes, and so
# many for each block beside its name.
_MOST_BYTES, _BYTES_OF_LINE, _BYTES_OF_BLOCK = 900_000, 200, 68
# Fewer snapshots are never kept.
_LEAST_KEPT = 10


class TargetHistory:
    """Keeps the numbers of a target, and makes its lines, its cards and its pictures.

    With more snapshots than there is room for, every second is kept, or every third, and so on.

    Args:
        target: One of `PICTURES`.
        schedule: At which steps snapshots are taken.
        columns: The numbers of earlier snapshots of the run, by step.
    """

    def __init__(
        self, target: str, schedule: SnapshotSchedule, columns: Iterable[BlockNumbers] = ()
    ) -> None:
        self._target = target
        self._schedule = schedule
        self._columns = list(columns)
        # The newest snapshot, which may not be one that is kept.
        self._newest: BlockNumbers | None = None
        self._drawn_step = -1

    def lines(self, step: int, snapshot: Snapshot) -> Iterator[JsonLine]:
        """Adds a snapshot, and yields its line if it is kept. Call it once per snapshot.

        Args:
            step: Its optimizer step.
            snapshot: In main memory, of the whole tensors.
        """
        self._newest = None
        numbers = BlockNumbers.of(self._target, step, snapshot)
        self._newest = numbers
        if _kept(self._schedule, numbers).is_kept(step):
            self._columns.append(numbers)
            yield JsonLine(file_of_blocks(self._target), numbers.values())

    def card(self, step: int, snapshot: Snapshot) -> Iterator[Text]:
        """Yields the card of a snapshot that was added last, if it is kept and much has changed."""
        if self._is_column(step) and len(self._columns) > 1:
            card = outlier_card(self._columns[-2], self._columns[-1])
            if card is not None:
                yield Text(tags.OUTLIERS.of(self._target), card)

    def picture(self, step: int, snapshot: Snapshot) -> Iterator[Image]:
        """Yields the picture up to the snapshot that was added last, if one is due."""
        if self._is_column(step) and _kept(self._schedule, self._columns[-1]).is_drawn(step):
            yield self._picture()

    def last_picture(self) -> Iterator[Image]:
        """Yields the picture up to the newest snapshot, kept or not, if it is not yet drawn."""
        newest = self._newest
        if newest is not None and newest.step > self._drawn_step:
            if not self._is_column(newest.step):
                self._columns.append(newest)
            yield self._picture()

    def _is_column(self, step: int) -> bool:
        return len(self._columns) > 0 and self._columns[-1].step == step

    def _picture(self) -> Image:
        tag, title = PICTURES[self._target]
        self._drawn_step = self._columns[-1].step
        return depth_picture(tag.name, title, self._columns)


def _kept(schedule: SnapshotSchedule, numbers: BlockNumbers) -> KeptSnapshots:
    """Returns which snapshots are kept of a model with these blocks."""
    names = sum(len(json.dumps(name)) for name in numbers.blocks)
    line = _BYTES_OF_LINE + names + _BYTES_OF_BLOCK * len(numbers.blocks)
    return KeptSnapshots(schedule, min(max(_MOST_BYTES // line, _LEAST_KEPT), MOST_KEPT))
