"""Counts and steps of the values of each tag of a run."""

import numpy as np
from numpy.typing import NDArray

from tbtrainer.reading import wire
from tbtrainer.reading.records import TagInfo
from tbtrainer.reading.segments import TagSteps
from tbtrainer.reading.tag_table import TagTable


class TagCounts:
    """Counts and steps of the values of each tag of a run, by number of the tag.

    Attributes:
        first_steps: Step of the first value.
        last_steps: Step of the last value.
    """

    def __init__(self) -> None:
        self.first_steps: dict[int, int] = {}
        self.last_steps: dict[int, int] = {}
        self._counts: dict[int, dict[int, int]] = {}

    def add(
        self,
        tag: NDArray[np.int32],
        field: NDArray[np.uint8],
        steps: TagSteps,
        numbers: NDArray[np.int32],
    ) -> None:
        """Adds values, in the order written.

        Args:
            tag: Indices into the tags of a batch. Shape (values,).
            field: Their fields; see `tbtrainer.reading.wire`. Shape (values,).
            steps: Their steps by tag.
            numbers: The number of each tag of the batch.
        """
        number = numbers[steps.tag].tolist()
        for one, first, last in zip(number, steps.first.tolist(), steps.last.tolist(), strict=True):
            self.first_steps.setdefault(one, first)
            self.last_steps[one] = last
        keys, counts = np.unique(tag * wire.FIELDS + field, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            local, own_field = divmod(key, wire.FIELDS)
            known = self._counts.setdefault(int(numbers[local]), {})
            known[own_field] = known.get(own_field, 0) + count

    def of(self, number: int) -> dict[int, int]:
        """Returns how many values of each field a tag has."""
        return dict(self._counts.get(number, {}))


def tag_infos(table: TagTable, counts: TagCounts) -> dict[str, TagInfo]:
    """Returns what a run has under each tag that has values; see `Run.tags`."""
    found = {}
    for number, name in enumerate(table.names):
        kinds: dict[str, int] = {}
        for field, count in counts.of(number).items():
            kind = table.kind(number, field)
            kinds[kind] = kinds.get(kind, 0) + count
        if kinds:
            found[name] = TagInfo(
                kind=max(kinds, key=lambda kind: kinds[kind]),
                count=sum(kinds.values()),
                first_step=counts.first_steps[number],
                last_step=counts.last_steps[number],
                description=table.metadata(number).description,
            )
    return found
