"""Names of run directories and of the event files in them."""

import os
import posixpath
import re
import socket
import time
from collections.abc import Iterable
from urllib.parse import unquote

# The claim file. It says which run owns the directory; see `tbtrainer.run.claim`.
CLAIM = ".tbtrainer-run"
# End of the names of event files that belong to a run but lie in directories below it.
# `add_scalars` and `add_hparams` of `SummaryWriter` make such directories.
PART_OF_RUN = ".part-of-run"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
# Begin of the names of event files that loaders read first, because they order files by name.
_FIRST = "events.out.tfevents.0000000000."
_REMOVED = re.compile(r"(.*)\.removed-after-\d+\.[0-9a-f]{8}", re.DOTALL)


def is_remote(directory: str) -> bool:
    """Whether a run directory is a URL."""
    return "://" in directory


def without_local_scheme(directory: str) -> str:
    """Returns the path of a URL of a local file system; anything else unchanged.

    fsspec opens such a URL, too, but follows links.

    Example:
        >>> without_local_scheme("file:///data/my%20run"), without_local_scheme("s3://bucket/run")
        ('/data/my run', 's3://bucket/run')
    """
    if directory.startswith("file://"):
        return unquote(directory.removeprefix("file://"))
    return directory.removeprefix("local://")


def is_event_file(name: str) -> bool:
    """Whether TensorBoard's loaders read a file of this name."""
    return "tfevents" in name


def event_files_in(directory: str) -> list[str]:
    """Returns the names of the event files in a local directory, in the order of the loaders."""
    return sorted(filter(is_event_file, os.listdir(directory)))


def event_file_name(existing: Iterable[str], number: int) -> str:
    """Returns a name for a new event file, which loaders read after all existing ones.

    Loaders order event files by name, and the name begins with the time. So the time in the name is
    later than that of every existing file, even if the clock was set back. Loaders compare names as
    text, so a time of all nines is followed by one with an additional digit.

    The number follows a hyphen; in the names of tensorboard's own writer it follows a dot. So a
    stock `SummaryWriter` in the same directory, process and second never makes the same name, and
    its file comes after ours.

    Args:
        existing: Names of the files in the run directory.
        number: A number that no other event file of this process has.
    """
    times = [found[1] for name in existing if (found := _EVENT_FILE.match(name))]
    moment = max([f"{int(time.time()):010d}", *map(_after, times)])
    return f"events.out.tfevents.{moment}.{socket.gethostname()}.{os.getpid()}-{number}"


def first_file_name(end: str) -> str:
    """Returns the name of an event file that loaders read before all others of its directory.

    Args:
        end: End of the name.
    """
    return f"{_FIRST}{socket.gethostname()}.{end}"


def is_first_file(name: str) -> bool:
    """Whether `first_file_name` returns a file of this name."""
    return name.startswith(_FIRST)


def removed_name(path: str, step: int, checksum: int) -> str:
    """Returns a name for what a rewind took out of a file. No loader reads a file of this name.

    Args:
        path: The file that was rewound.
        step: The last step that was kept.
        checksum: CRC-32C of what was taken out.

    Example:
        >>> removed_name("run/events.out.tfevents.1.host.7-0", 20, 255)
        'run/events.out.events.1.host.7-0.removed-after-20.000000ff'
    """
    return f"{_unread(path)}.removed-after-{step}.{checksum:08x}"


def is_removed(path: str) -> bool:
    """Whether a file holds what a rewind took out of another."""
    return _REMOVED.fullmatch(path) is not None


def was_removed_from(removed: str, path: str) -> bool:
    """Whether `removed` is the name of what a rewind took out of the file `path`."""
    found = _REMOVED.fullmatch(removed)
    return found is not None and found[1] == _unread(path)


def _unread(path: str) -> str:
    """Returns a path in the same folder without "tfevents": loaders read names that contain it."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.replace("tfevents", "events"))


def _after(moment: str) -> str:
    """Returns digits that are larger than others, both as a number and as text."""
    following = str(int(moment) + 1).zfill(len(moment))
    return following if len(following) == len(moment) else f"{moment}1"
