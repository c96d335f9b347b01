"""Finds the next whole record after a damaged one, where every loader stops."""

import re
from typing import BinaryIO

from tbtrainer.event_file.records import LENGTH_BYTES, whole_records

_BLOCK_BYTES = 2**20
# A record begins with its length, a little-endian uint64. Only lengths below 16 MiB are looked for:
# the last five bytes of such a length are zero, so that few places have to be tried.
_LENGTH = re.compile(rb"(?=(?:[^\0]..|.[^\0].|..[^\0])\0{5})", re.DOTALL)


def next_whole_record(file: BinaryIO, begin: int) -> int | None:
    """Returns where the first whole record at or after a place begins.

    Both checksums of the record are right, so it was not found by chance.

    Args:
        file: Open for reading. It can seek. Its position is changed.
        begin: The first place that is tried, in bytes.

    Returns:
        The place in bytes; `None` if there is no whole record of less than 16 MiB.
    """
    while True:
        file.seek(begin)
        block = file.read(_BLOCK_BYTES + LENGTH_BYTES - 1)
        for found in _LENGTH.finditer(block):
            if found.start() >= _BLOCK_BYTES:
                break
            file.seek(begin + found.start())
            if next(whole_records(file), None) is not None:
                return begin + found.start()
        if len(block) < _BLOCK_BYTES:
            return None
        begin += _BLOCK_BYTES
