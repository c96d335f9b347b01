"""Which directory a run is written to, and the names of the event files in it."""

import os
import re
import socket
import time
from datetime import datetime

# A fresh run that cannot claim its directory tries this many numbered siblings.
_SIBLINGS = 10_000
# An empty file that says whose the directory is: one run's.
CLAIM = ".tbtrainer-run"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


def default_run_directory(logging_dir: str | None, output_dir: str) -> str:
    """Returns the run directory asked for.

    Args:
        logging_dir: As given by the user, or `None`.
        output_dir: Where the trainer saves its checkpoints.

    Returns:
        `logging_dir`; without it the environment's `TENSORBOARD_LOGGING_DIR`; without that
        `{output_dir}/runs/{time}_{host}`.
    """
    chosen = logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
    if chosen:
        return os.path.expanduser(chosen)
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return os.path.join(output_dir, "runs", f"{now}_{socket.gethostname()}")


def check_run_directory(path: str) -> None:
    """Says before training what would keep the run from being written.

    Args:
        path: The run directory, which need not exist.

    Raises:
        ValueError: It is a file, lies below one, or the directory it is in cannot be written to.
    """
    if "://" in path:
        raise ValueError(
            f"logging_dir={path!r} is not a local path; write to a local directory, and copy or "
            "mount it where it is looked at."
        )
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise ValueError(
            f"logging_dir={path!r} cannot be a run directory: {existing} is a file. "
            "Name another directory, or remove the file."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"logging_dir={path!r} cannot be written to: no permission for {existing}. "
            "Name another directory, or change its permissions."
        )


def claim_run_directory(path: str) -> str:
    """Makes a directory that no other run is in, for a fresh run.

    Args:
        path: The directory asked for. If it holds events, or another run claims it at the same
            moment, a numbered sibling is made: `path-1`, `path-2`, and so on.

    Returns:
        The directory, which exists.
    """
    for number in range(_SIBLINGS):
        candidate = path if number == 0 else f"{path.rstrip('/')}-{number}"
        if _claimed(candidate):
            return candidate
    raise OSError(f"{path} and {_SIBLINGS - 1} numbered siblings of it hold runs.")


def _claimed(directory: str) -> bool:
    os.makedirs(directory, exist_ok=True)
    if any("tfevents" in name for name in os.listdir(directory)):
        return False
    try:
        # Of several processes, one makes this file.
        os.close(os.open(os.path.join(directory, CLAIM), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def next_event_file(directory: str, number: int) -> str:
    """Returns the path of an event file that loaders read after all that are there.

    Loaders order event files by name, and the name begins with the time: a clock that went back, or
    two files of one second, would hide a session. So the time is at least one second after the
    newest in the directory.

    Args:
        directory: The run directory.
        number: Tells the files of one process apart.
    """
    times = [int(m.group(1)) for name in os.listdir(directory) if (m := _EVENT_FILE.match(name))]
    moment = max([int(time.time()), *(newest + 1 for newest in times)])
    name = f"events.out.tfevents.{moment:010d}.{socket.gethostname()}.{os.getpid()}.{number}"
    return os.path.join(directory, name)
