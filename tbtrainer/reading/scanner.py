"""Reads an event file in pieces: `Scan`."""

from collections.abc import Iterator
from typing import BinaryIO

from tbtrainer.event_file.records import HEADER, size_of
from tbtrainer.reading.batch import Batch, ScannedPiece
from tbtrainer.reading.compiled_scan import CompiledScan, load_library
from tbtrainer.reading.portable_scan import PortableScan

# How many bytes of a file are read at a time. A longer event is read whole.
PIECE_BYTES = 8 * 2**20


class Scan:
    """One pass over an event file, in bounded memory.

    It stops at the first event that is torn or damaged, where TensorBoard's loaders stop, too. A
    length in the file is not trusted: no more memory is used than the file has bytes.

    A file that grows is read further with another `Scan` from `end`.

    Args:
        file: The file. It can seek.
        begin: Where to begin: 0, or the `end` of an earlier pass.
        end: Where to stop at the latest; `None` for the end of the file.
        piece_bytes: How many bytes are read at a time.
        scan_piece: Reads a piece; by default `fastest_scan()`.

    Attributes:
        end: Where the first event begins that was not read.
        unread_bytes: How many bytes the file has after `end`. Known when the iteration has ended.
        reason: Why they were not read: "torn" if the file ends within an event, as that of a
            running training may, "damaged" if a checksum is wrong; else empty.
    """

    def __init__(
        self,
        file: BinaryIO,
        begin: int = 0,
        end: int | None = None,
        *,
        piece_bytes: int = PIECE_BYTES,
        scan_piece: CompiledScan | PortableScan | None = None,
    ) -> None:
        self._file, self._limit, self._piece_bytes = file, end, piece_bytes
        self._scan_piece = scan_piece or fastest_scan()
        self.end = begin
        self.unread_bytes = 0
        self.reason = ""

    def __iter__(self) -> Iterator[Batch]:
        """Yields the values of the file, in the order written."""
        self._file.seek(self.end)
        rest, wanted = b"", self._piece_bytes
        while True:
            position = self.end
            read = self._read(wanted, position + len(rest))
            piece = None
            for piece in _scanned(self._scan_piece, rest + read, position):
                self.end = position + piece.end
                if piece.batch.events or len(piece.batch):
                    yield piece.batch
            assert piece is not None
            rest = piece.batch.data[piece.end :]
            missing = piece.needed - len(rest)
            if piece.is_damaged or len(read) < wanted or not self._has(missing):
                self._finish(rest, piece.is_damaged)
                return
            wanted = max(missing, self._piece_bytes)

    def _read(self, wanted: int, position: int) -> bytes:
        if self._limit is not None:
            wanted = min(wanted, self._limit - position)
        return self._file.read(wanted)

    def _has(self, count: int) -> bool:
        """Whether so many bytes follow, or so few are asked for that trying costs no memory."""
        return (
            count <= max(self._piece_bytes, HEADER.size)
            or count <= size_of(self._file) - self._file.tell()
        )

    def _finish(self, rest: bytes, is_damaged: bool) -> None:
        at_end = self._limit is None
        self.unread_bytes = size_of(self._file) - self.end if at_end else len(rest)
        self.reason = "damaged" if is_damaged else "torn" if rest else ""
        if not self.reason:
            self.unread_bytes = 0


def _scanned(
    scan_piece: CompiledScan | PortableScan, data: bytes, position: int
) -> Iterator[ScannedPiece]:
    """Yields what is in a piece of a file, in as many steps as it has too many rows for one."""
    begin, resume = 0, 0
    while True:
        piece = scan_piece(data, begin, position, resume)
        yield piece
        if not piece.is_full:
            return
        begin, resume = piece.end, piece.resume


def fastest_scan() -> CompiledScan | PortableScan:
    """Returns the compiled scanner, or the portable one if the installation has no other."""
    library = load_library()
    return PortableScan() if library is None else CompiledScan(library)
