"""Taking the events after a step out of a run, so that a resumed training goes on cleanly."""

import itertools
import os
import shutil

from tensorboard.compat.proto.event_pb2 import Event

from tbtrainer.run.records import whole_records

_PART = ".rewinding"


def rewind(directory: str, step: int) -> int:
    """Rewrites the event files of a run without the events after `step`.

    `purge_step` alone does not do it: the default loader of TensorBoard ignores it, and keeps tags
    that are not logged again. The events taken out are kept in a file beside, under a name that no
    loader reads. A crash at any moment loses nothing: the new file replaces the old one in one
    move, after what was removed is safe. Rewinding again to the same step changes nothing.

    Args:
        directory: The run directory.
        step: The last step that stays.

    Returns:
        How many events were taken out.
    """
    removed = 0
    for name in sorted(os.listdir(directory)):
        if "tfevents" in name:
            removed += _rewind_file(os.path.join(directory, name), step)
    return removed


def _rewind_file(path: str, step: int) -> int:
    with open(path, "rb") as file:
        content = file.read()
    kept: list[bytes] = []
    removed: list[bytes] = []
    readable = 0
    for begin, end, payload in whole_records(content):
        readable = end
        (removed if _is_after(payload, step) else kept).append(content[begin:end])
    if not removed and readable == len(content):
        return 0
    # Loaders read every file with "tfevents" in its name, and no other.
    folder, name = os.path.split(path)
    beside = os.path.join(folder, name.replace("tfevents", "events"))
    # A torn last record is kept with what was removed: nothing is ever thrown away.
    _write_durably(
        _unused(f"{beside}.removed-after-{step}"), b"".join(removed) + content[readable:]
    )
    _write_durably(beside + _PART, b"".join(kept))
    shutil.copymode(path, beside + _PART)
    os.replace(beside + _PART, path)
    return len(removed)


def _is_after(payload: bytes, step: int) -> bool:
    event = Event.FromString(payload)
    return bool(event.step > step) and event.WhichOneof("what") != "file_version"


def _unused(path: str) -> str:
    numbered = (f"{path}-{number}" for number in itertools.count(1))
    return next(p for p in itertools.chain([path], numbered) if not os.path.exists(p))


def _write_durably(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
