"""TFRecord framing: how an event lies in a file, and how far a file can be read."""

import struct
from collections.abc import Iterator

import google_crc32c

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def framed(payload: bytes) -> bytes:
    """Returns a payload as one TFRecord: length, its checksum, the payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, _FOOTER.pack(_masked(length)), payload, _FOOTER.pack(_masked(payload)))
    )


def whole_records(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Reads records until the first that is torn or damaged, where every loader stops.

    Yields:
        Where the record begins, where it ends, and its payload.
    """
    begin = 0
    while begin + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, begin)
        end = begin + _HEADER.size + length + _FOOTER.size
        if checksum != _masked(content[begin : begin + 8]) or end > len(content):
            return
        payload = content[begin + _HEADER.size : end - _FOOTER.size]
        if _FOOTER.unpack_from(content, end - _FOOTER.size)[0] != _masked(payload):
            return
        yield begin, end, payload
        begin = end


def _masked(data: bytes) -> int:
    """The checksum of a TFRecord: CRC-32C, rotated and shifted by a constant."""
    checksum: int = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
