"""Taking the events after a step out of a run, so that a resumed training goes on cleanly."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from tbtrainer.event_file.names import CLAIM, PART_OF_RUN, is_event_file, is_remote
from tbtrainer.event_file.records import unframed, whole_records
from tbtrainer.event_file.remote_file import filesystem

_COPY_BYTES = 2**20


def rewind(directory: str, step: int) -> int:
    """Rewrites the event files of a run without the events after `step`.

    `purge_step` alone does not do it: the default loader of TensorBoard ignores it, and keeps tags
    that are not logged again. The events taken out are kept in a file beside, under a name that no
    loader reads. A crash at any moment loses nothing: the new file replaces the old one in one
    move, after what was removed is safe. Rewinding again to the same step changes nothing.

    Args:
        directory: The run directory, local or remote.
        step: The last step that stays.

    Returns:
        How many events were taken out.
    """
    if is_remote(directory):
        return _rewind_remote(directory, step)
    return sum(_rewind_file(path, step) for path in _event_files(directory))


def _event_files(directory: str) -> Iterator[str]:
    """Event files of a run: those in its directory, and those of ours in directories below.

    Other runs may lie below a run, such as the trials of a search or runs of another tool.
    """
    for folder, folders, names in os.walk(directory):
        if folder != directory and CLAIM in names:
            folders.clear()
            continue
        for name in sorted(filter(is_event_file, names)):
            if folder == directory or name.endswith(PART_OF_RUN):
                yield os.path.join(folder, name)


def _rewind_file(path: str, step: int) -> int:
    removed = 0
    readable = 0
    with open(path, "rb") as file:
        for record in whole_records(file):
            readable += len(record)
            removed += _is_after(record, step)
        if not removed and readable == os.fstat(file.fileno()).st_size:
            return 0
        file.seek(0)
        _split_file(file, path, step)
    return removed


def _split_file(file: BinaryIO, path: str, step: int) -> None:
    """Puts what stays in the place of a file, after what goes is safe beside it."""
    beside = _unread(path)
    kept_part, removed_part = f"{beside}.rewinding", f"{beside}.rewinding-removed"
    checksum = 0
    with open(kept_part, "wb") as kept, open(removed_part, "wb") as removed:
        for part in (kept_part, removed_part):
            shutil.copymode(path, part)
        for piece, goes in _pieces(file, step):
            (removed if goes else kept).write(piece)
            checksum = google_crc32c.extend(checksum, piece) if goes else checksum
        for written in (removed, kept):
            written.flush()
            os.fsync(written.fileno())
    # The same records have the same name: after a crash before the last line, the next rewind does
    # not keep them twice.
    os.replace(removed_part, _removed_name(path, step, checksum))
    os.replace(kept_part, path)
    _sync_directory(os.path.dirname(path))


def _pieces(file: BinaryIO, step: int) -> Iterator[tuple[bytes, bool]]:
    """A file in pieces, and whether each goes. What follows the last whole record goes, too."""
    readable = 0
    for record in whole_records(file):
        readable += len(record)
        yield record, _is_after(record, step)
    file.seek(readable)
    while piece := file.read(_COPY_BYTES):
        yield piece, True


def _rewind_remote(directory: str, step: int) -> int:
    """The same on an object store, where a put replaces an object in one move."""
    opened, root = filesystem(directory)
    opened.invalidate_cache()
    total = 0
    for path in sorted(opened.find(root)):
        name = os.path.basename(path)
        is_part = name.endswith(PART_OF_RUN) or os.path.dirname(path) == root
        if not is_event_file(name) or not is_part:
            continue
        pieces = list(_pieces(io.BytesIO(opened.cat_file(path)), step))
        removed = b"".join(piece for piece, goes in pieces if goes)
        if removed:
            checksum = google_crc32c.value(removed)
            opened.pipe_file(_removed_name(path, step, checksum), removed)
            opened.pipe_file(path, b"".join(piece for piece, goes in pieces if not goes))
            total += sum(1 for _ in whole_records(io.BytesIO(removed)))
    return total


def _is_after(record: bytes, step: int) -> bool:
    event = Event.FromString(unframed(record))
    return bool(event.step > step) and event.WhichOneof("what") != "file_version"


def _unread(path: str) -> str:
    """A path beside, of a name that no loader reads: they read those with "tfevents" in them."""
    folder, name = os.path.split(path)
    return os.path.join(folder, name.replace("tfevents", "events"))


def _removed_name(path: str, step: int, checksum: int) -> str:
    return f"{_unread(path)}.removed-after-{step}.{checksum:08x}"


def _sync_directory(folder: str) -> None:
    # A directory cannot be synchronised on every system; the files themselves were.
    with suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
