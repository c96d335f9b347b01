"""Splits a file into the records that it keeps and those that are stored beside it."""

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeAlias

import google_crc32c

from tbtrainer.event_file.names import removed_name
from tbtrainer.event_file.records import size_of, whole_records
from tbtrainer.event_file.storage_protocol import StagedFile, Storage

_COPY_BYTES = 2**20

# Takes a record, and returns whether it is removed.
Decision: TypeAlias = Callable[[bytes], bool]


def split_file(
    storage: Storage,
    path: str,
    file: BinaryIO,
    decision: Decision,
    step: int,
    removed_files: list[str],
) -> None:
    """Replaces a file by its kept records, after the removed ones are stored beside it.

    Args:
        storage: Of the run directory.
        path: The file, relative to the run directory.
        file: The same file, open.
        decision: Takes a record, and returns whether it is removed.
        step: A part of the name of the file with the removed records.
        removed_files: The names of such files are added to it.

    Raises:
        OSError: There is no room for a copy of the file.
    """
    if storage.free_bytes() < size_of(file):
        raise OSError(errno.ENOSPC, "no room for a copy of the file")
    file.seek(0)
    with storage.stage(path) as kept, storage.stage(path) as removed:
        checksum, end = _distribute(_pieces(file, decision), kept, removed)
        # The name depends on the records alone. After a crash before the last line, the next rewind
        # writes the removed records to the same file again, and not to a second one.
        name = removed_name(path, step, checksum)
        removed_files.append(name)
        removed.publish(name)
        kept.publish(path)
    _keep_late_records(storage, path, file, end, step, removed_files)


def _distribute(
    pieces: Iterable[tuple[bytes, bool]], kept: StagedFile, removed: StagedFile
) -> tuple[int, int]:
    """Writes pieces to two files. Returns the checksum of the removed ones, and the total size."""
    checksum = size = 0
    for piece, is_removed in pieces:
        (removed if is_removed else kept).write(piece)
        size += len(piece)
        checksum = google_crc32c.extend(checksum, piece) if is_removed else checksum
    return checksum, size


def _keep_late_records(
    storage: Storage, path: str, file: BinaryIO, end: int, step: int, removed_files: list[str]
) -> None:
    """Stores what another process appended to the old file before it was replaced."""
    file.seek(end)
    late = file.read()
    if late:
        name = removed_name(path, step, google_crc32c.value(late))
        removed_files.append(name)
        with storage.stage(path) as staged:
            staged.write(late)
            staged.publish(name)


def _pieces(file: BinaryIO, decision: Decision) -> Iterator[tuple[bytes, bool]]:
    """Yields each record of a file, and whether it is removed. A torn end is removed.

    Another process that still writes the file may complete a torn record meanwhile. So reading is
    repeated from the end of the last whole record until the file has not grown.
    """
    readable = 0
    size = -1
    while size != size_of(file):
        size = size_of(file)
        file.seek(readable)
        for record in whole_records(file):
            readable += len(record)
            yield record, decision(record)
    file.seek(readable)
    while piece := file.read(_COPY_BYTES):
        yield piece, True
