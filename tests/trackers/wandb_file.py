"""Files of wandb's offline runs, read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_FILE_HEADER_BYTES = 7
_BLOCK_BYTES = 32768
_RECORD_HEADER = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def history(directory: Path) -> list[dict[str, Any]]:
    """Rows of the one run below a directory, in order. A nested key is joined by slashes.

    wandb writes the file in a process of its own, so read it after `wandb.teardown()`.
    """
    (file,) = directory.rglob("*.wandb")
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in _records(file.read_bytes())
        if record.WhichOneof("record_type") == "history"
    ]


def _records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """Reads a `.wandb` file: records in the blocks of a LevelDB log, large ones in parts."""
    position, parts = _FILE_HEADER_BYTES, b""
    while position + _RECORD_HEADER.size <= len(data):
        left_in_block = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left_in_block < _RECORD_HEADER.size:
            position += left_in_block
            continue
        _, length, kind = _RECORD_HEADER.unpack_from(data, position)
        position += _RECORD_HEADER.size
        parts += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""
