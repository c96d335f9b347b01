"""Takes what a resumed training replaces out of the files of its run."""

import logging
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeAlias

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
    Storage,
    UnsuitableFile,
    is_staged,
)
from tbtrainer.redaction import shown
from tbtrainer.run.hparams import END_TAG
from tbtrainer.run.split_file import Decision, split_file

logger = logging.getLogger(__name__)

# How long to wait for another training that rewinds the same run.
_LOCK_SECONDS = 60.0
# How many files with records of earlier rewinds are kept in each folder.
_EARLIER_KEPT = 3
# How many files an error names.
_NAMED_FILES = 3


# Takes a storage, a path and the list of files with removed records; returns how many were removed.
_Rewrite: TypeAlias = Callable[..., int]


class RewindIncomplete(OSError):
    """Some files could not be rewound. All others were rewound."""


def rewind(directory: str, step: int) -> int:
    """Rewrites the files of a run without the events and JSON lines after `step`.

    A START event with `purge_step` is not enough: TensorBoard's default loader ignores it. How the
    earlier session ended is taken out, too, because the run continues.

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

    def rewinds(files: list[str]) -> Iterator[tuple[str, _Rewrite]]:
        for path in _event_files(files):
            # `SummaryWriter.add_hparams` writes to folders, about trainings that have ended.
            decision = partial(_is_after if posixpath.dirname(path) else _is_replaced, step=step)
            yield path, partial(_rewind_file, decision=decision, step=step)
        for path in _files_of_lines(files):
            yield path, partial(_rewind_lines, step=step)

    return _rewrite_each(directory, rewinds)


def remove_summaries(directory: str, tag: str) -> None:
    """Rewrites the event files of a run without the summaries of a tag.

    They are kept in a file in the same folder, as by `rewind`. Files without such a summary are not
    changed, so the session that calls this may have a file of its own open.

    Args:
        directory: The run directory, local or remote.
        tag: Of the summaries. Events with others beside it are kept.

    Raises:
        TimeoutError: Another process was still rewinding the run after a minute.
        RewindIncomplete: Some files could not be read or rewritten. The message names them.
    """

    def removals(files: list[str]) -> Iterator[tuple[str, _Rewrite]]:
        for path in _event_files(files):
            if not posixpath.dirname(path):
                yield path, partial(_remove_from, decision=partial(_is_about, tag=tag))

    _rewrite_each(directory, removals)


def _rewrite_each(
    directory: str, rewrites: Callable[[list[str]], Iterator[tuple[str, _Rewrite]]]
) -> int:
    """Rewrites files under the lock of their run. Returns how many records were removed."""
    storage = storage_of(directory)
    faults: list[tuple[str, Exception]] = []
    removed: list[str] = []
    total = 0
    with storage.lock(_LOCK_SECONDS) as is_locked:
        files = _of_this_run(storage.files())
        if is_locked:
            _remove_staged(storage, files)
        for path, rewrite in rewrites(files):
            try:
                total += rewrite(storage, path, removed_files=removed)
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


def _rewind_lines(storage: Storage, path: str, *, step: int, removed_files: list[str]) -> int:
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


def _rewind_file(
    storage: Storage, path: str, *, decision: Decision, step: int, removed_files: list[str]
) -> int:
    """Rewinds one file. Returns how many events were removed."""
    with storage.open(path) as file:
        removed, readable = 0, 0
        for record in whole_records(file):
            readable += len(record)
            removed += decision(record)
        if not removed and readable == size_of(file):
            return 0
        split_file(storage, path, file, decision, step, removed_files)
    return removed


def _remove_from(
    storage: Storage, path: str, *, decision: Decision, removed_files: list[str]
) -> int:
    """Removes events from one file, if it has such. Returns how many were removed."""
    with storage.open(path) as file:
        removed = sum(map(decision, whole_records(file)))
        if removed:
            # The summaries of a whole run have step 0.
            split_file(storage, path, file, decision, 0, removed_files)
    return removed


# ---- Which records are removed ----


def _is_after(record: bytes, step: int) -> bool:
    event = Event.FromString(unframed(record))
    return bool(event.step > step) and event.WhichOneof("what") != "file_version"


def _is_replaced(record: bytes, step: int) -> bool:
    return _is_after(record, step) or _is_about(record, END_TAG)


def _is_about(record: bytes, tag: str) -> bool:
    """Whether a record is an event with nothing but summaries of a tag."""
    if tag.encode() not in record:  # Parsing takes longer.
        return False
    values = Event.FromString(unframed(record)).summary.value
    return len(values) > 0 and all(value.tag == tag for value in values)


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
