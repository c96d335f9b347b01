"""Reads the events in a piece of an event file with google_crc32c and protobuf."""

import dataclasses
import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tbtrainer.event_file.records import (
    FOOTER,
    FRAME_BYTES,
    HEADER,
    LENGTH_BYTES,
    masked_checksum,
)
from tbtrainer.reading import wire
from tbtrainer.reading.batch import ROW_DTYPES, Batch, ScannedPiece
from tbtrainer.reading.tensors import number_of


@dataclasses.dataclass
class _BatchBuilder:
    """Collects the rows of a batch one by one."""

    tags: dict[bytes, int] = dataclasses.field(default_factory=dict)
    metadata: list[bytes | None] = dataclasses.field(default_factory=list)
    rows: list[tuple[int, int, int, float, float, int, int]] = dataclasses.field(
        default_factory=list
    )
    events: int = 0
    first_wall_time: float = math.nan

    def add_payload(self, payload: bytes, begin: int) -> None:
        """Adds the values of one event.

        Args:
            payload: The serialized event.
            begin: Where it begins in the piece.

        Raises:
            DecodeError: The bytes are no event.
        """
        event = wire.WireEvent.FromString(payload)
        found = []
        after = 0
        for data in event.summary.value:
            # The values are parts of the payload, in this order.
            after = payload.index(data, after)
            found.append((wire.WireValue.FromString(data), begin + after, len(data)))
            after += len(data)
        if not self.events:
            self.first_wall_time = event.wall_time
        self.events += 1
        stamp = event.step, event.wall_time
        if event.session_log.status == wire.START_STATUS:
            self.rows.append((wire.START, -1, *stamp, 0.0, begin, 0))
        for value, offset, size in found:
            self._add_value(value, stamp, offset, size)

    def _add_value(self, value: Any, stamp: tuple[int, float], offset: int, size: int) -> None:
        field = wire.FIELD_OF_NAME.get(value.WhichOneof("what") or "", wire.METADATA_ONLY)
        if field == wire.METADATA_ONLY and not value.metadata:
            return
        number = value.simple_value
        if field == wire.TENSOR and len(value.tensor) <= wire.MOST_NUMBER_BYTES:
            read = number_of(value.tensor)
            if read is not None:
                field, number = wire.NUMBER, read
        name = value.tag or value.node_name
        tag = self.tags.setdefault(name, len(self.tags))
        if tag == len(self.metadata):
            self.metadata.append(None)
        if self.metadata[tag] is None and value.metadata:
            self.metadata[tag] = value.metadata
        self.rows.append((field, tag, *stamp, number, offset, size))

    def batch(self, data: bytes, position: int) -> Batch:
        """Returns the rows as arrays."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(ROW_DTYPES)
        dtypes = ROW_DTYPES.values()
        return Batch.of_columns(
            [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)],
            tags=list(self.tags),
            metadata=self.metadata,
            data=data,
            position=position,
            events=self.events,
            first_wall_time=self.first_wall_time,
        )


class PortableScan:
    """Reads pieces of event files."""

    def __call__(self, data: bytes, begin: int, position: int, resume: int = 0) -> ScannedPiece:
        """Reads the whole events in a piece of a file; see `scan_piece`. Needs no `resume`."""
        return scan_piece(data, begin, position)


def scan_piece(data: bytes, begin: int, position: int) -> ScannedPiece:
    """Reads the whole events in a piece of a file.

    Args:
        data: The piece.
        begin: Where the first event begins in it.
        position: Where the piece begins in the file.
    """
    builder = _BatchBuilder()
    end, needed, is_damaged = begin, HEADER.size, False
    while len(data) - end >= HEADER.size:
        length, checksum = HEADER.unpack_from(data, end)
        if checksum != masked_checksum(data[end : end + LENGTH_BYTES]):
            is_damaged = True
            break
        needed = length + FRAME_BYTES
        if needed > len(data) - end:
            break
        first = end + HEADER.size
        payload = data[first : first + length]
        (checksum,) = FOOTER.unpack_from(data, first + length)
        if checksum != masked_checksum(payload) or not _added(builder, payload, first):
            is_damaged = True
            break
        end, needed = end + needed, HEADER.size
    return ScannedPiece(builder.batch(data, position), end, needed, is_damaged)


def _added(builder: _BatchBuilder, payload: bytes, begin: int) -> bool:
    """Adds an event; returns whether the bytes are one."""
    try:
        builder.add_payload(payload, begin)
    except DecodeError:
        return False
    return True
