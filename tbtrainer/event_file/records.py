"""TFRecord framing: how an event lies in a file, and how far a file can be read."""

import struct
import time
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def framed(payload: bytes) -> bytes:
    """Returns a payload as one TFRecord: length, its checksum, the payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, _FOOTER.pack(_masked(length)), payload, _FOOTER.pack(_masked(payload)))
    )


def unframed(record: bytes) -> bytes:
    """Returns the payload of a whole record."""
    return record[_HEADER.size : -_FOOTER.size]


def whole_records(file: BinaryIO) -> Iterator[bytes]:
    """Reads records until the first that is torn or damaged, where every loader stops.

    Args:
        file: Open at the beginning of a record.

    Yields:
        The records as they lie in the file: `unframed` gives the payload.
    """
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        if checksum != _masked(header[:8]):
            return
        body = file.read(length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            return
        payload, (checksum,) = body[:length], _FOOTER.unpack(body[length:])
        if checksum != _masked(payload):
            return
        yield header + body


def session_header(start_step: int) -> bytes:
    """Returns what an event file begins with.

    Args:
        start_step: First step that earlier files of the run may not show. TensorBoard's loaders in
            Python take those steps out of what they have read.

    Returns:
        The record of the version, which a loader wants first, and the START of a session.
    """
    now = time.time()
    version = Event(wall_time=now, file_version="brain.Event:2")
    start = Event(wall_time=now, step=start_step, session_log=SessionLog(status=SessionLog.START))
    return framed(version.SerializeToString()) + framed(start.SerializeToString())


def _masked(data: bytes) -> int:
    """The checksum of a TFRecord: CRC-32C, rotated and shifted by a constant."""
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
