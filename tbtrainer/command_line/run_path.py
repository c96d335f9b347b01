"""Opens the run that a user named on the command line."""

import os

from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.progress import Advanced
from tbtrainer.event_file.names import is_remote
from tbtrainer.reading import NotARun, Run, read_run
from tbtrainer.redaction import shown

# How many runs an error names.
_NAMED_RUNS = 10


def opened_run(
    path: str, *, include_rewound: bool = False, advanced: Advanced | None = None
) -> Run:
    """Returns the run in a directory, or the only run below it.

    Args:
        path: A local path, or a URL that fsspec knows.
        include_rewound: Whether values that later sessions have replaced are shown, too.
        advanced: Called while the files are read.

    Raises:
        UsageError: There is none, or there are several below it. The message names them.
    """
    return read_run(the_run_at(path), include_rewound=include_rewound, progress=advanced)


def runs_at(path: str) -> list[str]:
    """Returns the run in a directory, or, if it has no event files itself, the runs below it.

    Raises:
        UsageError: There is no such directory, or there are no event files in or below it.
    """
    check_directory(path)
    try:
        read_run(path)
        return [path]
    except NotARun as error:
        if not error.runs:
            raise UsageError(str(error)) from None
        return error.runs
    except FileNotFoundError:
        raise UsageError(f"{shown(path)} does not exist.") from None


def the_run_at(path: str) -> str:
    """Returns the run in a directory, or the only run below it.

    Raises:
        UsageError: There is none, or there are several below it. The message names them.
    """
    runs = runs_at(path)
    if len(runs) > 1:
        named = ", ".join(map(shown, runs[:_NAMED_RUNS]))
        more = f", and {len(runs) - _NAMED_RUNS} more" if len(runs) > _NAMED_RUNS else ""
        raise UsageError(f"There are several runs in {shown(path)}; name one: {named}{more}.")
    return runs[0]


def check_directory(path: str) -> None:
    """Checks that a local path is a directory.

    Raises:
        UsageError: It is not. For a file, the message names its directory.
    """
    if is_remote(path):
        return
    place = os.path.expanduser(path)
    if not os.path.exists(place):
        raise UsageError(f"{shown(path)} does not exist.")
    if not os.path.isdir(place):
        directory = os.path.dirname(place) or "."
        raise UsageError(f"{shown(path)} is a file; name its directory: {shown(directory)}")
