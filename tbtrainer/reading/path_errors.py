"""The errors of a path or URL that is not a directory."""

from tbtrainer.redaction import shown


def does_not_exist(path: str) -> FileNotFoundError:
    """Returns the error of a path or URL at which there is nothing."""
    return FileNotFoundError(f"There is no directory {shown(path)!r}.")


def is_a_file(path: str) -> NotADirectoryError:
    """Returns the error of a path or URL at which there is a file."""
    return NotADirectoryError(f"{shown(path)} is a file. Name the run directory that it is in.")
