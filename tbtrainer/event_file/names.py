"""Names of run directories and of the event files in them."""

import os
import re
import socket
import time
from collections.abc import Iterable

# The claim file: marks the directory as owned by one run, whose unique id it holds.
CLAIM = ".tbtrainer-run"
# End of the names of event files in directories below a run that belong to it: `add_scalars` and
# `add_hparams` of `SummaryWriter` make such directories.
PART_OF_RUN = ".part-of-run"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


def is_remote(directory: str) -> bool:
    """Whether a run directory is a URL."""
    return "://" in directory


def is_event_file(name: str) -> bool:
    """Whether TensorBoard's loaders read a file of this name."""
    return "tfevents" in name


def event_files_in(directory: str) -> list[str]:
    """Names of the event files in a local directory, in the order in which loaders read them."""
    return sorted(filter(is_event_file, os.listdir(directory)))


def event_file_name(existing: Iterable[str], number: int) -> str:
    """Returns the name of an event file that loaders read after all existing ones.

    Loaders order event files by name, and the name begins with the time. So the time is after the
    newest in the directory, also if the clock was set back. It is compared as text: a time of more
    digits than any clock has is followed by a longer one.

    Before the number stands a hyphen, where tensorboard's own writer has a dot. So a stock
    `SummaryWriter` in the same directory, process and second never makes this name, and its file is
    ordered after ours.

    Args:
        existing: Names of the files in the run directory.
        number: Distinguishes the files of one process.
    """
    times = [found[1] for name in existing if (found := _EVENT_FILE.match(name))]
    moment = max([f"{int(time.time()):010d}", *map(_after, times)])
    return f"events.out.tfevents.{moment}.{socket.gethostname()}.{os.getpid()}-{number}"


def _after(moment: str) -> str:
    """Returns digits that come after others both as a number and as text."""
    following = str(int(moment) + 1).zfill(len(moment))
    return following if len(following) == len(moment) else f"{moment}1"
