"""A reduction that keeps which of the two collectives of a snapshot a rank reached."""

from typing import Any

from tbtrainer.statistics import SnapshotRows, WholeTensors


class CountedReduction(WholeTensors):
    """Stands in for `AllRanks`, and communicates with no other rank.

    Attributes:
        reached: The collectives in their order, and whether this rank had elements for each.
    """

    def __init__(self, rows: SnapshotRows, sums_beside: bool = False) -> None:
        self.reached: list[tuple[str, bool]] = []

    def reduce_extremes(self, statistics: Any) -> None:
        """Keeps that the first collective was reached."""
        self.reached.append(("extremes", statistics is not None))

    def reduce_counts(self, snapshot: Any) -> None:
        """Keeps that the others were reached."""
        self.reached.append(("counts", snapshot is not None))
