"""Weights & Biases: `wandb.init(sync_tensorboard=True)`, offline."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2

_FILE_HEADER_BYTES = 7
_BLOCK_BYTES = 32768
_RECORD_HEADER = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def recorded_scalars(train: Callable[[], None]) -> list[tuple[str, int, float]]:
    """Trains inside a run and reads the run's history back."""
    run = wandb.init(project="tbtrainer", mode="offline", sync_tensorboard=True)
    train()
    directory = Path(run.dir).parent
    run.finish()
    (file,) = directory.glob("*.wandb")
    scalars = []
    for record in _records(file.read_bytes()):
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        # Rows also have keys of wandb's own, which begin with an underscore.
        for key in row.keys() - {"global_step"}:
            if isinstance(row[key], int | float) and not key.startswith("_"):
                # wandb puts the directory in front, relative to the current one.
                scalars.append((key.removeprefix("runs/"), row["global_step"], row[key]))
    return scalars


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
