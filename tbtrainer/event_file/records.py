"""TFRecord framing: how an event is stored in an event file.

A record is the length of its payload as a uint64, a checksum of these eight bytes, the payload, and
a checksum of the payload. All numbers are little-endian. `tbtrainer/reading/event_scan.c`
reads the same in C.
"""

import os
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

# What is before the payload: its length, and the checksum of the length.
HEADER = struct.Struct("<QI")
# What is after the payload: its checksum.
FOOTER = struct.Struct("<I")
# How many bytes a record has more than its payload.
FRAME_BYTES = HEADER.size + FOOTER.size
LENGTH_BYTES = 8
# The step of an event is an int64.
_LAST_STEP = 2**63 - 1
# Records up to this size are read without asking for the size of the file.
_SMALL_BYTES = 2**16


def masked_checksum(data: bytes) -> int:
    """Returns the checksum of a part of a TFRecord: its CRC-32C, rotated, plus a constant."""
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """Returns a payload as one TFRecord: length, its checksum, the payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    header = HEADER.pack(len(payload), masked_checksum(length))
    return b"".join((header, payload, FOOTER.pack(masked_checksum(payload))))


def unframed(record: bytes) -> bytes:
    """Returns the payload of a whole record."""
    return record[HEADER.size : -FOOTER.size]


def whole_records(file: BinaryIO) -> Iterator[bytes]:
    """Reads records until the first that is torn or damaged, where every loader stops.

    A record whose header claims more bytes than the file has left is torn. It is not read, so a
    forged length costs no memory.

    Args:
        file: Open at the beginning of a record. It can seek.

    Yields:
        The records with their framing: `unframed` returns the payload.
    """
    while len(header := file.read(HEADER.size)) == HEADER.size:
        length, checksum = HEADER.unpack(header)
        body_size = length + FOOTER.size
        if checksum != masked_checksum(header[:LENGTH_BYTES]) or not _has_left(file, body_size):
            return
        body = file.read(body_size)
        if len(body) < body_size:  # The file was cut short after its size was looked at.
            return
        payload, (checksum,) = body[:length], FOOTER.unpack(body[length:])
        if checksum != masked_checksum(payload):
            return
        yield header + body


def size_of(file: BinaryIO) -> int:
    """Returns how many bytes a file has now. Its position stays the same."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def _has_left(file: BinaryIO, count: int) -> bool:
    """Whether `count` bytes can be read, or are so few that trying costs no memory."""
    return count <= _SMALL_BYTES or count <= size_of(file) - file.tell()


def file_header(start_step: int | None) -> bytes:
    """Returns the records with which an event file begins.

    Args:
        start_step: Step of the START event of a session, or `None` for a file without one.
            TensorBoard's loaders in Python hide events of this step and later ones in the files
            that they have read before.

    Returns:
        The record of the version, which loaders require first, and the START event, if any.
    """
    now = time.time()
    header = framed(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    if start_step is None:
        return header
    step = min(start_step, _LAST_STEP)
    start = Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START))
    return header + framed(start.SerializeToString())
