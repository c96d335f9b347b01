"""Takes what was written after a step out of the files of a run that is resumed."""

import errno
import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from tbtrainer.event_file.json_lines import (
    JSON_LINES_END,
    MOST_BYTES,
    lines_of_a_run,
    step_of_line,
)
from tbtrainer.event_file.names import (
    CLAIM,
    PART_OF_RUN,
    is_event_file,
    is_removed,
    removed_name,
)
from tbtrainer.event_file.records import size_of, unframed, whole_records
from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.storage_protocol import (
    StagedFile,
    Storage,
    UnsuitableFile,
    is_staged,
)
from tbtrainer.redaction import shown

logger = logging.getLogger(__name__)

_COPY_BYTES = 2**20
# How long to wait for another training that rewinds the same run.
_LOCK_SECONDS = 60.0
# How many files with records of earlier rewinds are kept in each folder.
_EARLIER_KEPT = 3
# How many files an error names.
_NAMED_FILES = 3


class RewindIncomplete(OSError):
    """Some files could not be rewound. All others were rewound."""


def rewind(directory: str, step: int) -> int:
    """Rewrites the files of a run without the events and JSON lines after `step`.

    A START record with `purge_step` is not enough: TensorBoard's default loader ignores it.

    The removed events are kept in a file in the same folder, under a name that no loader reads. A
    crash at any moment loses no record: the removed events are on the disk before the new event
    file atomically replaces the old one. Rewinding again to the same step changes no file.

    Args:
        directory: The run directory, local or remote.
        step: The last step whose events are kept.

    Returns:
        How many events and lines were removed.

    Raises:
        TimeoutError: Another process was still rewinding the run after a minute.
        RewindIncomplete: Some files could not be read or rewritten. The message names them.
    """
    storage = storage_of(directory)
    faults: list[tuple[str, Exception]] = []
    removed: list[str] = []
    total = 0
    with storage.lock(_LOCK_SECONDS) as is_locked:
        files = _of_this_run(storage.files())
        if is_locked:
            _remove_staged(storage, files)
        rewinds = [(path, _rewind_file) for path in _event_files(files)]
        rewinds += [(path, _rewind_lines) for path in _files_of_lines(files)]
        for path, rewind_it in rewinds:
            try:
                total += rewind_it(storage, path, step, removed)
            except Exception as fault:  # Every object store has exceptions of its own.
                faults.append((path, fault))
        _remove_earlier(storage, files, removed)
    if faults:
        named = "; ".join(f"{shown(path)}: {shown(fault)}" for path, fault in faults[:_NAMED_FILES])
        more = len(faults) - _NAMED_FILES
        raise RewindIncomplete(f"{named}; and {more} more" if more > 0 else named)
    return total


def _of_this_run(files: list[str]) -> list[str]:
    """Leaves out the files of other runs in directories below, such as the trials of a search."""
    others = {posixpath.dirname(path) for path in files if posixpath.basename(path) == CLAIM}
    others.discard("")
    return [path for path in files if not others.intersection(_folders_of(path))]


def _folders_of(path: str) -> Iterator[str]:
    """Yields the folders that a path lies in, except the run directory itself."""
    while path := posixpath.dirname(path):
        yield path


def _event_files(files: list[str]) -> Iterator[str]:
    """Yields event files in the run directory, and tbtrainer's in directories below it."""
    for path in files:
        folder, name = posixpath.split(path)
        if is_event_file(name) and (not folder or name.endswith(PART_OF_RUN)):
            yield path


def _files_of_lines(files: list[str]) -> Iterator[str]:
    """Yields the files in the run directory that may be made of JSON lines."""
    for path in files:
        if path.endswith(JSON_LINES_END) and not posixpath.dirname(path):
            yield path


def _rewind_lines(storage: Storage, path: str, step: int, removed_files: list[str]) -> int:
    """Rewinds one file of JSON lines. Returns how many lines were removed.

    Files of other programs are left as they are. `JsonLinesFile` does not write to them either.
    """
    try:
        lines = lines_of_a_run(storage.read(path, MOST_BYTES)) or []
    except UnsuitableFile:
        return 0
    removed = [line for line in lines if (step_of_line(line) or 0) > step]
    if removed:
        kept = [line for line in lines if (step_of_line(line) or 0) <= step]
        name = removed_name(path, step, google_crc32c.value(b"".join(removed)))
        removed_files.append(name)
        # As with events, the removed lines are stored first. A crash in between loses none.
        for target, content in ((name, removed), (path, kept)):
            with storage.stage(path) as staged:
                staged.write(b"".join(content))
                staged.publish(target)
    return len(removed)


def _rewind_file(storage: Storage, path: str, step: int, removed_files: list[str]) -> int:
    """Rewinds one file. Returns how many events were removed."""
    with storage.open(path) as file:
        removed, readable = 0, 0
        for record in whole_records(file):
            readable += len(record)
            removed += _is_after(record, step)
        if not removed and readable == size_of(file):
            return 0
        if storage.free_bytes() < size_of(file):
            raise OSError(errno.ENOSPC, "no room for a copy of the file")
        file.seek(0)
        _split_file(storage, path, file, step, removed_files)
    return removed


def _split_file(
    storage: Storage, path: str, file: BinaryIO, step: int, removed_files: list[str]
) -> None:
    """Replaces a file by its kept records, after the removed ones are stored beside it."""
    with storage.stage(path) as kept, storage.stage(path) as removed:
        checksum, end = _distribute(_pieces(file, step), kept, removed)
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
    for piece, is_late in pieces:
        (removed if is_late else kept).write(piece)
        size += len(piece)
        checksum = google_crc32c.extend(checksum, piece) if is_late else checksum
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


def _pieces(file: BinaryIO, step: int) -> Iterator[tuple[bytes, bool]]:
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
            yield record, _is_after(record, step)
    file.seek(readable)
    while piece := file.read(_COPY_BYTES):
        yield piece, True


def _is_after(record: bytes, step: int) -> bool:
    event = Event.FromString(unframed(record))
    return bool(event.step > step) and event.WhichOneof("what") != "file_version"


# ---- Files beside the event files ----


def _remove_staged(storage: Storage, files: list[str]) -> None:
    """Deletes unfinished files of a rewind that was killed. Call it only under the lock."""
    for path in files:
        if is_staged(path):
            with suppress(OSError):
                storage.remove(path)


def _remove_earlier(storage: Storage, files: list[str], of_this_rewind: list[str]) -> None:
    """Deletes files with records of earlier rewinds, except the newest of each folder."""
    if not of_this_rewind:
        return
    # Apart for events and lines, so that neither displaces the other.
    by_folder: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for path in files:
        if is_removed(path) and path not in of_this_rewind:
            has_lines = f"{JSON_LINES_END}." in posixpath.basename(path)
            by_folder[posixpath.dirname(path), has_lines].append(path)
    for paths in by_folder.values():
        try:
            paths.sort(key=storage.modified)
            for path in paths[:-_EARLIER_KEPT]:
                storage.remove(path)
        except Exception as fault:  # Every object store has exceptions of its own.
            logger.debug("Files with records of earlier rewinds are not deleted: %s", shown(fault))
