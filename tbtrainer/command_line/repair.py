"""The repairs of `tbtrainer doctor`.

A file is never changed in place. Its old bytes are stored beside it first, under a name that no
loader reads. Then it is replaced atomically. A crash at any moment loses nothing.
"""

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event

from tbtrainer.command_line.checked_files import CheckedFiles
from tbtrainer.command_line.folder_check import FolderCheck
from tbtrainer.command_line.progress import Advanced
from tbtrainer.command_line.record_damage import Damage
from tbtrainer.command_line.terminal_text import shown_tag
from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.records import framed, size_of, unframed, whole_records
from tbtrainer.reading import wire
from tbtrainer.reading.replaced import Replaced

_COPY_BYTES = 2**20
# How many records are looked at together.
_BLOCK_RECORDS = 10_000
_TIME = re.compile(r"(.*tfevents\.)(\d+)(\..*)", re.DOTALL)


@dataclass(frozen=True)
class Repair:
    """One file that was repaired.

    Attributes:
        file: The file, relative to the run directory.
        action: What was done.
        kept: Where the old bytes are; the new name of a file that was renamed.
    """

    file: str
    action: str
    kept: str


def without_damages(
    files: CheckedFiles, name: str, damages: Sequence[Damage], advanced: Advanced | None
) -> Repair:
    """Takes damaged bytes out of an event file."""

    def kept_bytes(file: BinaryIO) -> Iterator[bytes]:
        if damages[0].begin == 0:
            yield _header(file, damages[0].end)
        begin = 0
        for damage in damages:
            yield from _copied(file, begin, damage.begin)
            begin = damage.end
        yield from _copied(file, begin, size_of(file))

    kept = _replaced(files, name, kept_bytes, advanced)
    count = sum(damage.end - damage.begin for damage in damages)
    return Repair(name, f"took {count:,} damaged bytes out", kept)


def without_replaced_values(
    files: CheckedFiles, check: FolderCheck, name: str, advanced: Advanced | None
) -> Repair:
    """Takes values out of an event file that later sessions have replaced."""
    segments = check.index.segments
    number = [file.name for file in check.index.files].index(name)
    hidden = [
        replaced
        for segment, replaced in zip(segments, check.hidden, strict=True)
        if segment.file == number
    ]
    tags = {tag: index for index, tag in enumerate(check.index.tags.names)}

    def kept_bytes(file: BinaryIO) -> Iterator[bytes]:
        place, block = 0, _Block(tags)
        for record in whole_records(file):
            is_start = block.add(record)
            if is_start or len(block.records) >= _BLOCK_RECORDS:
                # A START event replaces nothing itself, and may be kept with those before it.
                yield from block.without_values(hidden[place])
                place, block = place + is_start, _Block(tags)
        yield from block.without_values(hidden[place])

    kept = _replaced(files, name, kept_bytes, advanced)
    return Repair(name, f"took {check.replaced_values[name]:,} replaced values out", kept)


def _header(file: BinaryIO, begin: int) -> bytes:
    """Returns the record of the version, with the time of the record that follows it.

    TensorBoard takes a file without one for a file of an old format.

    Args:
        file: The event file.
        begin: Where the first whole record begins.
    """
    file.seek(begin)
    record = next(whole_records(file), None)
    following = wire.WireEvent.FromString(unframed(record)) if record is not None else Event()
    header = Event(wall_time=following.wall_time, file_version="brain.Event:2")
    return framed(header.SerializeToString())


def whole_lines(files: CheckedFiles, name: str, data: bytes) -> Repair:
    """Replaces a file of JSON lines by its whole lines.

    Args:
        files: The run directory.
        name: The file.
        data: Its whole lines.
    """
    kept = _replaced(files, name, lambda file: iter([data]), None)
    return Repair(name, "cut the incomplete line off", kept)


def in_order(files: CheckedFiles, expected: Sequence[str]) -> list[Repair]:
    """Renames event files of one folder, so that loaders read them in another order.

    Only files of a local directory are renamed.

    Args:
        files: The run directory.
        expected: The files, in the order in which they are to be read.
    """
    repairs: list[Repair] = []
    last = ""
    for path in expected:
        folder, name = posixpath.split(path)
        new = name if name > last else _name_after(name, last)
        if new != name:
            source, target = (os.path.join(files.path, folder, each) for each in (name, new))
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "a file has the name already", target)
            os.rename(source, target)
            new_path = posixpath.join(folder, new)
            repairs.append(Repair(path, f"renamed to {shown_tag(new)}", new_path))
        last = new
    return repairs


def _name_after(name: str, last: str) -> str:
    """Returns the name of an event file that comes after another, with a later time in it."""
    found, before = _TIME.fullmatch(name), _TIME.fullmatch(last)
    if found is None or before is None:
        return f"{last}.{name}"
    time = str(int(before[2]) + 1).zfill(len(before[2]))
    # A time of all nines is followed by one with more digits, which comes earlier as a text.
    time = time if len(time) == len(before[2]) else f"{before[2]}1"
    return f"{before[1]}{time}{found[3]}"


class _Block:
    """Consecutive records of an event file, and their values.

    Args:
        tags: The number of each tag of the run.

    Attributes:
        records: The records with their framing.
    """

    def __init__(self, tags: Mapping[str, int]) -> None:
        self._tags = tags
        self.records: list[bytes] = []
        # Of each value: its record, its tag, its step, when it was written, its bytes.
        self._values: list[tuple[int, int, int, float, bytes]] = []

    def add(self, record: bytes) -> bool:
        """Adds a record. Returns whether it is a START event."""
        event = wire.WireEvent.FromString(unframed(record))
        for data in event.summary.value:
            value = wire.WireValue.FromString(data)
            number = self._tags[(value.tag or value.node_name).decode(errors="replace")]
            row = len(self.records), number, event.step, event.wall_time, data
            self._values.append(row)
        self.records.append(record)
        is_start: bool = event.session_log.status == wire.START_STATUS
        return is_start

    def without_values(self, hidden: Replaced) -> Iterator[bytes]:
        """Yields the records without the values that are replaced, and without empty records."""
        if not hidden or not self._values:
            yield from self.records
            return
        records, tags, steps, times, _ = zip(*self._values, strict=True)
        is_hidden = hidden.mask(
            np.array(tags, np.int32), np.array(steps, np.int64), np.array(times)
        )
        changed = set(np.array(records)[is_hidden].tolist())
        kept: dict[int, list[bytes]] = {record: [] for record in changed}
        for row, hides in zip(self._values, is_hidden.tolist(), strict=True):
            if row[0] in changed and not hides:
                kept[row[0]].append(row[4])
        for number, record in enumerate(self.records):
            if number not in changed:
                yield record
            elif kept[number]:
                event = wire.WireEvent.FromString(unframed(record))
                del event.summary.value[:]
                event.summary.value.extend(kept[number])
                yield framed(event.SerializeToString())


def _replaced(
    files: CheckedFiles,
    name: str,
    kept_bytes: Callable[[BinaryIO], Iterator[bytes]],
    advanced: Advanced | None,
) -> str:
    """Replaces a file, and returns the name under which its old bytes are stored.

    Args:
        files: The run directory.
        name: The file.
        kept_bytes: Returns the new content, from the open file.
        advanced: Called with the bytes that were copied so far.

    Raises:
        OSError: There is no room for two copies, or the file has changed meanwhile.
    """
    storage = files.storage
    with files.open(name) as file, storage.stage(name) as old, storage.stage(name) as new:
        size = size_of(file)
        if storage.free_bytes() < 2 * size:
            raise OSError(errno.ENOSPC, "no room for the repaired file beside the old one", name)
        checksum = 0
        for piece in _counted(_copied(file, 0, size), 0, size, advanced):
            checksum = google_crc32c.extend(checksum, piece)
            old.write(piece)
        file.seek(0)
        for piece in _counted(kept_bytes(file), size, size, advanced):
            new.write(piece)
        with files.open(name) as again:
            if size_of(again) != size:
                raise OSError(errno.EBUSY, "another process has changed the file", name)
        folder, base = posixpath.split(name)
        # Loaders read every name with "tfevents" in it.
        unread = base.replace("tfevents", "events")
        kept = posixpath.join(folder, f"{unread}.before-repair.{checksum:08x}")
        old.publish(kept)
        new.publish(name)
    return kept


def _copied(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end:
        piece = file.read(min(_COPY_BYTES, end - begin))
        if not piece:
            return
        begin += len(piece)
        yield piece


def _counted(
    pieces: Iterator[bytes], done: int, size: int, advanced: Advanced | None
) -> Iterator[bytes]:
    """Yields pieces, and says how far the two passes over a file are."""
    reported = done
    for piece in pieces:
        yield piece
        done += len(piece)
        if advanced is not None and done - reported >= _COPY_BYTES:
            reported = done
            advanced(done, 2 * size)


def can_rename(files: CheckedFiles) -> bool:
    """Whether files can be renamed without a moment in which they have two names, or none."""
    return not is_remote(files.path)
