"""Taking the events after a step out of a run, so that a resumed training continues cleanly."""

import errno
import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from tbtrainer.event_file.names import CLAIM, PART_OF_RUN, is_event_file
from tbtrainer.event_file.records import unframed, whole_records
from tbtrainer.event_file.storage import storage_of
from tbtrainer.event_file.storage_protocol import STAGED, StagedFile, Storage

logger = logging.getLogger(__name__)

_COPY_BYTES = 2**20
# Two trainings that resume the same run take turns.
_LOCK_SECONDS = 60.0
# Of the records that earlier rewinds took out, so many files stay in each folder.
_EARLIER_KEPT = 3
_REMOVED = re.compile(r".*\.removed-after-\d+\.[0-9a-f]{8}")
_NAMED_FILES = 3


class RewindIncomplete(OSError):
    """Some event files could not be rewound. All others were."""


def rewind(directory: str, step: int) -> int:
    """Rewrites the event files of a run without the events after `step`.

    `purge_step` alone does not do it: the default loader of TensorBoard ignores it, and keeps tags
    that are not logged again. The events taken out are kept in a file beside, under a name that no
    loader reads. A crash at any moment loses no record: what was removed is on the disk before the
    new file replaces the old one in one move. Rewinding again to the same step changes nothing.

    Args:
        directory: The run directory, local or remote.
        step: The last step that stays.

    Returns:
        How many events were taken out.

    Raises:
        TimeoutError: Another process was rewinding the run for a minute.
        RewindIncomplete: Event files, which the message names, could not be read or rewritten.
    """
    storage = storage_of(directory)
    faults: list[tuple[str, Exception]] = []
    removed: list[str] = []
    total = 0
    with storage.lock(_LOCK_SECONDS) as is_locked:
        files = _of_this_run(storage.files())
        if is_locked:
            _remove_staged(storage, files)
        for path in _event_files(files):
            try:
                total += _rewind_file(storage, path, step, removed)
            except Exception as fault:  # Every object store has exceptions of its own.
                faults.append((path, fault))
        _remove_earlier(storage, files, removed)
    if faults:
        named = "; ".join(f"{path}: {fault}" for path, fault in faults[:_NAMED_FILES])
        more = len(faults) - _NAMED_FILES
        raise RewindIncomplete(f"{named}; and {more} more" if more > 0 else named)
    return total


def _of_this_run(files: list[str]) -> list[str]:
    """Leaves out the files of other runs below a run, such as the trials of a search."""
    others = {posixpath.dirname(path) for path in files if posixpath.basename(path) == CLAIM}
    others.discard("")
    return [path for path in files if not others.intersection(_folders_of(path))]


def _folders_of(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _event_files(files: list[str]) -> Iterator[str]:
    """Event files in the run's directory, and those of ours in directories below."""
    for path in files:
        folder, name = posixpath.split(path)
        if is_event_file(name) and (not folder or name.endswith(PART_OF_RUN)):
            yield path


def _rewind_file(storage: Storage, path: str, step: int, removed_files: list[str]) -> int:
    with storage.open(path) as file:
        removed, readable = 0, 0
        for record in whole_records(file):
            readable += len(record)
            removed += _is_after(record, step)
        if not removed and readable == _size_of(file):
            return 0
        if storage.free_bytes() < _size_of(file):
            raise OSError(errno.ENOSPC, "no room for a copy of the file")
        file.seek(0)
        _split_file(storage, path, file, step, removed_files)
    return removed


def _split_file(
    storage: Storage, path: str, file: BinaryIO, step: int, removed_files: list[str]
) -> None:
    """Puts what stays in the place of a file, after what goes is safe beside it."""
    with storage.stage(path) as kept, storage.stage(path) as removed:
        checksum, end = _distribute(_pieces(file, step), kept, removed)
        # The same records have the same name: after a crash before the last line, the next rewind
        # does not keep them twice.
        name = _removed_name(path, step, checksum)
        removed_files.append(name)
        removed.publish(name)
        kept.publish(path)
    _keep_late_records(storage, path, file, end, step, removed_files)


def _distribute(
    pieces: Iterable[tuple[bytes, bool]], kept: StagedFile, removed: StagedFile
) -> tuple[int, int]:
    """Writes the pieces of a file. Returns the checksum of the removed ones, and all bytes."""
    checksum = size = 0
    for piece, goes in pieces:
        (removed if goes else kept).write(piece)
        size += len(piece)
        checksum = google_crc32c.extend(checksum, piece) if goes else checksum
    return checksum, size


def _keep_late_records(
    storage: Storage, path: str, file: BinaryIO, end: int, step: int, removed_files: list[str]
) -> None:
    """Keeps what a process that still has the old file open wrote until it was replaced."""
    file.seek(end)
    late = file.read()
    if late:
        name = _removed_name(path, step, google_crc32c.value(late))
        removed_files.append(name)
        with storage.stage(path) as staged:
            staged.write(late)
            staged.publish(name)


def _pieces(file: BinaryIO, step: int) -> Iterator[tuple[bytes, bool]]:
    """Yields each record of a file and whether it goes. A torn end goes, too.

    A process that still writes the file may complete a torn record meanwhile. So the end is looked
    at again until the file has not grown.
    """
    readable = 0
    size = -1
    while size != _size_of(file):
        size = _size_of(file)
        file.seek(readable)
        for record in whole_records(file):
            readable += len(record)
            yield record, _is_after(record, step)
    file.seek(readable)
    while piece := file.read(_COPY_BYTES):
        yield piece, True


def _size_of(file: BinaryIO) -> int:
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def _is_after(record: bytes, step: int) -> bool:
    event = Event.FromString(unframed(record))
    return bool(event.step > step) and event.WhichOneof("what") != "file_version"


# ---- Files beside the event files ----


def _remove_staged(storage: Storage, files: list[str]) -> None:
    """Deletes what a rewind that was killed left unfinished. Under the lock there is no other."""
    for path in files:
        if path.endswith(STAGED):
            with suppress(OSError):
                storage.remove(path)


def _remove_earlier(storage: Storage, files: list[str], of_this_rewind: list[str]) -> None:
    """Deletes records that earlier rewinds took out, but for the newest files of each folder."""
    if not of_this_rewind:
        return
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in files:
        if _REMOVED.fullmatch(path) and path not in of_this_rewind:
            by_folder[posixpath.dirname(path)].append(path)
    for paths in by_folder.values():
        try:
            paths.sort(key=storage.modified)
            for path in paths[:-_EARLIER_KEPT]:
                storage.remove(path)
        except Exception as fault:  # Every object store has exceptions of its own.
            logger.debug("removed records of an earlier rewind stay: %s", fault)


def _unread(path: str) -> str:
    """A path beside, of a name that no loader reads: they read those with "tfevents" in them."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.replace("tfevents", "events"))


def _removed_name(path: str, step: int, checksum: int) -> str:
    return f"{_unread(path)}.removed-after-{step}.{checksum:08x}"
