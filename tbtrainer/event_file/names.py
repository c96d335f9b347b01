"""Names of run directories and of the event files in them."""

import os
import re
import socket
import time
from collections.abc import Iterable

# A file that says whose the directory is: one run's. It holds a name that no other run has.
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
    """Returns the name of an event file that loaders read after all that are there.

    Loaders order event files by name, and the name begins with the time: a clock that went back, or
    two files of one second, would hide a session. So the time is at least one second after the
    newest in the directory.

    Args:
        existing: Names of the files in the run directory.
        number: Tells the files of one process apart.
    """
    times = [int(found.group(1)) for name in existing if (found := _EVENT_FILE.match(name))]
    moment = max([int(time.time()), *(newest + 1 for newest in times)])
    return f"events.out.tfevents.{moment:010d}.{socket.gethostname()}.{os.getpid()}.{number}"
