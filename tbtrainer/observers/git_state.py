"""The git commit of a directory, and whether its files differ from it."""

import os
import subprocess
from collections.abc import Sequence

# The longest that one command of git may take.
GIT_SECONDS = 5.0

# `git status` would write to the index otherwise, and a file monitor would be started.
_READ_ONLY = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")


def git_commit(directory: str) -> str:
    """Returns the commit of a directory with its branch; empty without git or a repository.

    Nothing is written. Each command is waited for at most `GIT_SECONDS`.

    Args:
        directory: Anywhere in a working tree.
    """
    commit = _answer(directory, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return ""
    branch = _answer(directory, "symbolic-ref", "--short", "--quiet", "HEAD")
    return f"{commit} ({branch})" if branch else commit


def uncommitted_changes(directory: str) -> str:
    """Returns how many tracked files differ from the commit; empty if that is not known.

    Files that git does not track are not counted.

    Args:
        directory: Anywhere in a working tree.
    """
    changes = _answer(
        directory, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"
    )
    if changes is None:
        return ""
    count = len(changes.splitlines())
    return "none" if count == 0 else f"{count:,} file{'s' if count > 1 else ''}"


def _answer(directory: str, *command: str) -> str | None:
    """Returns what git prints, or `None` if it fails, is not installed or does not answer."""
    words: Sequence[str] = ("git", *_OPTIONS, "-C", directory, *command)
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_SECONDS,
            env={**os.environ, **_READ_ONLY},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").rstrip("\n")
