"""Which snapshots have their numbers kept, and at which of them a picture is drawn."""

import math
from dataclasses import dataclass

from tbtrainer.observers.schedule import SnapshotSchedule

# A picture has room for this many columns that can be told apart.
MOST_KEPT = 100
# TensorBoard keeps ten pictures of a tag. They are at least so many columns apart.
MOST_PICTURES = 10
COLUMNS_BETWEEN_PICTURES = 5


@dataclass(frozen=True)
class KeptSnapshots:
    """The snapshots of a run that are kept. They depend on its schedule and on `most` only.

    With more snapshots than `most`, every second is kept, or every third, and so on, and the last.

    Attributes:
        schedule: At which steps snapshots are taken.
        most: How many are kept, apart from the last.

    Example:
        >>> kept = KeptSnapshots(SnapshotSchedule(every=10, last=95), most=5)
        >>> [step for step in (*range(10, 91, 10), 95) if kept.is_kept(step)]
        [20, 40, 60, 80, 95]
    """

    schedule: SnapshotSchedule
    most: int = MOST_KEPT

    def is_kept(self, step: int) -> bool:
        """Returns whether the numbers of a snapshot are kept.

        That of a run that ends before its last step is. Its step is not one of the schedule.
        """
        number = self._number(step)
        return number is None or number == self._total or number % self._stride == 0

    def is_drawn(self, step: int) -> bool:
        """Returns whether a picture is drawn at a snapshot: up to ten times, the last time too.

        A run with fewer than 50 snapshots has fewer pictures, one for every five of them.
        """
        number = self._number(step)
        if number is None or not self.is_kept(step):
            return False
        place = math.ceil(number / self._stride)
        columns = max(math.ceil(self._total / self._stride), place)
        pictures = min(max(columns // COLUMNS_BETWEEN_PICTURES, 1), MOST_PICTURES)
        return place * pictures // columns > (place - 1) * pictures // columns

    @property
    def _total(self) -> int:
        return math.ceil(self.schedule.last / self.schedule.every)

    @property
    def _stride(self) -> int:
        return max(math.ceil(self._total / self.most), 1)

    def _number(self, step: int) -> int | None:
        """Returns the number of a snapshot, counted from 1; `None` if no snapshot is due."""
        return math.ceil(step / self.schedule.every) if self.schedule.is_due(step) else None
