"""`Batch`: the values of a piece of an event file, one row each; `ScannedPiece`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The arrays of a batch, in the order of its attributes.
ROW_DTYPES = {
    "field": "u1",
    "tag": "i4",
    "step": "i8",
    "wall_time": "f8",
    "value": "f8",
    "offset": "i8",
    "size": "i8",
}


@dataclass(frozen=True)
class Batch:
    """The values of consecutive events of a file, one row each, in the order written.

    Attributes:
        tags: The tags of this batch. They are bytes: not every file has valid UTF-8.
        metadata: Per tag, the serialized metadata of its first value in this batch that has any;
            `None` if there is none.
        field: The field of `Summary.Value` that holds the value, as a number of
            `tbtrainer.reading.wire`. uint8, shape (rows,).
        tag: Index into `tags`; -1 for a START event. int32, shape (rows,).
        step: Step of the event. int64, shape (rows,).
        wall_time: When the event was written, in seconds since 1970. float64, shape (rows,).
        value: The number of a `SIMPLE_VALUE` or a `NUMBER`; 0 for other rows. float64, shape
            (rows,).
        offset: Where the serialized value begins in `data`. int64, shape (rows,).
        size: How many bytes it has. int64, shape (rows,).
        data: The piece of the file.
        position: Where `data` begins in the file.
        events: How many events the batch is made of.
        first_wall_time: Of the first event, also of one without values; NaN without an event.
    """

    tags: list[bytes]
    metadata: list[bytes | None]
    field: NDArray[np.uint8]
    tag: NDArray[np.int32]
    step: NDArray[np.int64]
    wall_time: NDArray[np.float64]
    value: NDArray[np.float64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    data: bytes
    position: int
    events: int
    first_wall_time: float

    @classmethod
    def of_columns(cls, columns: Sequence[NDArray[Any]], **others: Any) -> "Batch":
        """Returns a batch of the arrays in the order of `ROW_DTYPES`, and its other attributes."""
        named: dict[str, Any] = dict(zip(ROW_DTYPES, columns, strict=True))
        return cls(**named, **others)

    def __len__(self) -> int:
        return len(self.field)

    def value_bytes(self, row: int) -> bytes:
        """Returns a serialized `Summary.Value`."""
        begin = int(self.offset[row])
        return self.data[begin : begin + int(self.size[row])]


@dataclass(frozen=True)
class ScannedPiece:
    """What was found in a piece of an event file.

    Attributes:
        batch: The values of the whole events.
        end: Where the first event begins that was not read.
        needed: How many bytes that event has, framing included, as far as is known.
        is_damaged: Whether a checksum of that event is wrong, or its payload is no event.
        is_full: Whether reading stopped because there are many rows, and continues at `end`.
        resume: If that event was read in part: where reading continues, from its beginning.
    """

    batch: Batch
    end: int
    needed: int
    is_damaged: bool = False
    is_full: bool = False
    resume: int = 0
