"""Which directory a run is written to."""

import os
import socket
import uuid
from datetime import datetime
from urllib.parse import unquote

from tbtrainer.event_file import remote_file
from tbtrainer.event_file.names import CLAIM, event_files_in, is_remote

# A fresh run that cannot claim its directory tries this many numbered siblings.
_SIBLINGS = 10_000


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
    if chosen and chosen.startswith("file://"):
        return unquote(chosen.removeprefix("file://"))
    if chosen:
        return chosen if is_remote(chosen) else os.path.expanduser(chosen)
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return os.path.join(output_dir, "runs", f"{now}_{socket.gethostname()}")


def check_run_directory(path: str) -> None:
    """Says before training what would keep the run from being written.

    Args:
        path: The run directory, which need not exist.

    Raises:
        ValueError: It is a file, lies below one, its name is too long, or the directory it is in
            cannot be written to. Of a remote directory: the package for it is missing.
    """
    if is_remote(path):
        remote_file.filesystem(path)
        return
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        kind = "a link that leads nowhere" if os.path.islink(existing) else "a file"
        raise ValueError(
            f"logging_dir={path!r} cannot be a run directory: {existing} is {kind}. "
            "Name another directory, or remove it."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"logging_dir={path!r} cannot be written to: no permission for {existing}. "
            "Name another directory, or change its permissions."
        )
    longest = os.pathconf(existing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in os.path.relpath(os.path.abspath(path), existing).split(os.sep):
        if len(os.fsencode(name)) > longest:
            raise ValueError(
                f"logging_dir={path!r} cannot be made: {name!r} is longer than the {longest} bytes "
                f"that a name below {existing} may have. Name a shorter one."
            )


def claim_run_directory(path: str) -> str:
    """Makes a directory that no other run is in, for a fresh run.

    Args:
        path: The directory asked for. If it holds events, or another run claims it at the same
            moment, a numbered sibling is made: `path-1`, `path-2`, and so on.

    Returns:
        The directory, which exists.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    claimed = remote_file.claimed if is_remote(path) else _claimed
    for number in range(_SIBLINGS):
        candidate = path if number == 0 else f"{path.rstrip('/')}-{number}"
        if claimed(candidate):
            return candidate
    raise OSError(f"{path} and {_SIBLINGS - 1} numbered siblings of it hold runs.")


def _claimed(directory: str) -> bool:
    os.makedirs(directory, exist_ok=True)
    if event_files_in(directory):
        return False
    try:
        # Of several processes, one makes this file.
        with open(os.path.join(directory, CLAIM), "x", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        return False
    return True


def claim_of(directory: str) -> str:
    """Returns what the run of a directory has claimed it with; empty text if nothing."""
    if is_remote(directory):
        return remote_file.claim_of(directory)
    try:
        with open(os.path.join(directory, CLAIM), encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""
