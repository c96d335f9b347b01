"""Chooses the run directory, and checks before training that it can be written to."""

import os
import socket
from datetime import datetime

from tbtrainer.event_file.names import is_remote, without_local_scheme
from tbtrainer.event_file.remote_storage import filesystem
from tbtrainer.redaction import shown


def named_run_directory(logging_dir: str | None) -> str | None:
    """Returns the run directory that was asked for.

    Args:
        logging_dir: As given by the user, or `None`.

    Returns:
        `logging_dir`, or the environment variable `TENSORBOARD_LOGGING_DIR` if `logging_dir` is
        `None` or empty. A local directory is made an absolute path; a URL stays as it is. `None` if
        neither is given.
    """
    chosen = logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
    if not chosen:
        return None
    chosen = without_local_scheme(chosen)
    return chosen if is_remote(chosen) else os.path.abspath(os.path.expanduser(chosen))


def default_run_directory(output_dir: str) -> str:
    """Returns the run directory if none was asked for: `{output_dir}/runs/{time}_{host}`."""
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return os.path.join(os.path.abspath(output_dir), "runs", f"{now}_{socket.gethostname()}")


def check_run_directory(path: str) -> None:
    """Checks before training that a run directory can be written to.

    Args:
        path: The run directory, which need not exist.

    Raises:
        ValueError: A local directory is a file, lies below a file, has a name that is too long, or
            lies in a directory without write permission. A remote directory has a URL that fsspec
            cannot open, for example because a package is missing. The message has no secrets.
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
            f"logging_dir={shown(path)} cannot be a run directory: {shown(existing)} is {kind}. "
            f"Set logging_dir to another directory, or remove {kind}."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"logging_dir={shown(path)} cannot be written to: {shown(existing)} is read-only for "
            "this process, by its permissions or because its file system is mounted so. Set "
            "logging_dir to another directory, or make this one writable."
        )
    longest = os.pathconf(existing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in os.path.relpath(os.path.abspath(path), existing).split(os.sep):
        if len(os.fsencode(name)) > longest:
            raise ValueError(
                f"logging_dir={shown(path)} cannot be made: the name {shown(name)} is longer than "
                f"the {longest} bytes that a name in {shown(existing)} may have. Set logging_dir "
                "to a directory with a shorter name."
            )
