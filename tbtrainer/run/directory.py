"""Which directory a run is written to."""

import os
import socket
from datetime import datetime
from urllib.parse import unquote

from tbtrainer.event_file.names import is_remote
from tbtrainer.event_file.remote_storage import filesystem


def named_run_directory(logging_dir: str | None) -> str | None:
    """Returns the run directory that was asked for.

    Args:
        logging_dir: As given by the user, or `None`.

    Returns:
        `logging_dir`, without it the environment's `TENSORBOARD_LOGGING_DIR`, as an absolute path
        or as a URL; `None` if neither is given.
    """
    chosen = logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
    if not chosen:
        return None
    if chosen.startswith("file://"):
        return os.path.abspath(unquote(chosen.removeprefix("file://")))
    return chosen if is_remote(chosen) else os.path.abspath(os.path.expanduser(chosen))


def default_run_directory(output_dir: str) -> str:
    """Returns the run directory where none was asked for: `{output_dir}/runs/{time}_{host}`."""
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return os.path.join(os.path.abspath(output_dir), "runs", f"{now}_{socket.gethostname()}")


def check_run_directory(path: str) -> None:
    """Checks before training that a run directory can be written to.

    Args:
        path: The run directory, which need not exist.

    Raises:
        ValueError: It is a file, lies below one, its name is too long, or the directory it is in
            cannot be written to. Of a remote directory: the package for it is missing.
    """
    if is_remote(path):
        filesystem(path)
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
