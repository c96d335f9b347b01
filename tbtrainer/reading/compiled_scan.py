"""Reads the events in a piece of an event file with the compiled library of `event_scan.c`."""

import ctypes
import importlib.util
import logging
import math
import os
from dataclasses import replace
from functools import cache

import numpy as np

from tbtrainer.reading import portable_scan, wire
from tbtrainer.reading.batch import ROW_DTYPES, Batch, ScannedPiece
from tbtrainer.reading.tensors import number_of

logger = logging.getLogger(__name__)

_MODULE = "tbtrainer.reading._event_scan"
# `tbtrainer_scan_interface` of the library that has the functions as they are called here.
_INTERFACE = 1
# Most rows of a batch.
ROWS = 2**17
# What the library returns, and the field of a row that it leaves to protobuf; see `event_scan.c`.
_DAMAGED, _FULL, _UNUSUAL = 1, 2, 3
_MAYBE_NUMBER = 200
_TAG_COLUMNS = 4


class _Table(ctypes.Structure):
    """`Table` of the library."""

    _fields_ = [
        ("columns", ctypes.c_void_p * (len(ROW_DTYPES) + _TAG_COLUMNS)),
        ("slot", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("slots", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
    ]


class _Found(ctypes.Structure):
    """`Found` of the library."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("tags", ctypes.c_int64),
        ("events", ctypes.c_int64),
        ("end", ctypes.c_int64),
        ("needed", ctypes.c_int64),
        ("resume", ctypes.c_int64),
        ("first_wall_time", ctypes.c_double),
    ]


class CompiledScan:
    """Reads pieces of event files with the library. The arrays are used for all pieces.

    Args:
        library: The library, as `load_library` returns it.
        rows: Most rows of a batch.
    """

    def __init__(self, library: ctypes.CDLL, rows: int = ROWS) -> None:
        self._scan = library.tbtrainer_scan
        self._rows = [np.empty(rows, dtype) for dtype in ROW_DTYPES.values()]
        self._tags = [np.empty(rows, np.int64) for _ in range(_TAG_COLUMNS)]
        # Half of the slots at least stay free.
        self._slots = np.empty(2 * 1 << (rows - 1).bit_length(), np.int32)
        addresses = [array.ctypes.data for array in (*self._rows, *self._tags)]
        self._table = _Table(
            (ctypes.c_void_p * len(addresses))(*addresses),
            self._slots.ctypes.data,
            rows,
            len(self._slots),
            int.from_bytes(os.urandom(8), "little"),
        )

    def __call__(self, data: bytes, begin: int, position: int, resume: int = 0) -> ScannedPiece:
        """Reads the whole events in a piece of a file; see `portable_scan.scan_piece`."""
        self._slots.fill(0)
        found = _Found(end=begin, resume=resume, first_wall_time=math.nan)
        status = self._scan(
            data, ctypes.c_int64(len(data)), ctypes.byref(self._table), ctypes.byref(found)
        )
        piece = ScannedPiece(
            self._batch(data, position, found),
            end=found.end,
            needed=found.needed,
            is_damaged=status == _DAMAGED,
            is_full=status == _FULL,
            resume=found.resume,
        )
        if status != _UNUSUAL:
            return piece
        if found.events:
            # The caller continues at the unusual event, which is then the first one.
            return replace(piece, is_full=True)
        return _by_protobuf(data, found.end, found.needed, position)

    def _batch(self, data: bytes, position: int, found: _Found) -> Batch:
        rows, tags = found.rows, found.tags
        batch = Batch.of_columns(
            [array[:rows].copy() for array in self._rows],
            tags=[],
            metadata=[],
            data=data,
            position=position,
            events=found.events,
            first_wall_time=found.first_wall_time,
        )
        for row in np.flatnonzero(batch.field == _MAYBE_NUMBER).tolist():
            number = number_of(wire.WireValue.FromString(batch.value_bytes(row)).tensor)
            batch.field[row] = wire.TENSOR if number is None else wire.NUMBER
            batch.value[row] = 0.0 if number is None else number
        for at, size, metadata_at, metadata_size in np.stack(
            [array[:tags] for array in self._tags], axis=1
        ).tolist():
            batch.tags.append(data[at : at + size])
            batch.metadata.append(data[metadata_at : metadata_at + metadata_size] or None)
        return batch


@cache
def load_library() -> ctypes.CDLL | None:
    """Loads the library, or returns `None` if the installation did not build it."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        logger.debug("The compiled scanner was not built; protobuf reads event files.")
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        interface = ctypes.c_int32.in_dll(library, "tbtrainer_scan_interface").value
    except (OSError, ValueError) as error:
        logger.debug("The compiled scanner cannot be loaded (%s); protobuf reads files.", error)
        return None
    if interface != _INTERFACE:
        logger.debug(
            "The compiled scanner is of another version of tbtrainer; protobuf reads event files "
            "until tbtrainer is installed again."
        )
        return None
    return library


def _by_protobuf(data: bytes, begin: int, size: int, position: int) -> ScannedPiece:
    """Reads one event; the caller then continues after it."""
    piece = portable_scan.scan_piece(data[begin : begin + size], 0, position)
    batch = replace(piece.batch, data=data, offset=piece.batch.offset + begin)
    return replace(piece, batch=batch, end=begin + piece.end, is_full=not piece.is_damaged)
