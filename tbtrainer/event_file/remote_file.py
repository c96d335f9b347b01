"""Run directories on object stores, through fsspec: event files as parts that are put whole."""

import itertools
import os
import posixpath
import uuid
from collections.abc import Sequence
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from tbtrainer.event_file.event_file import Appended, first_start_step
from tbtrainer.event_file.names import CLAIM, event_file_name, is_event_file
from tbtrainer.event_file.records import file_header
from tbtrainer.event_file.waiting import REMOTE_HUNG_SECONDS

# Objects cannot be appended to. The newest part is put again, longer each time, until it has this
# size and the next is begun.
_PART_BYTES = 4 * 2**20
# Every put on a hub is a commit.
_SECONDS_BETWEEN_PUTS = {"hf": 60.0}
_numbers = itertools.count()
# What was read once, so that no checkpoint waits for it again.
_claims: dict[str, str] = {}


def filesystem(directory: str) -> tuple[Any, str]:
    """Opens the file system of a remote run directory.

    Args:
        directory: A URL such as `s3://bucket/run`.

    Returns:
        The fsspec file system, and the directory's path in it.

    Raises:
        ValueError: fsspec does not know the protocol, or the package for it is not installed.
    """
    protocol = directory.split("://", 1)[0]
    try:
        opened, path = url_to_fs(directory)
    except ImportError as error:
        raise ValueError(
            f"logging_dir: {protocol}:// needs a package that is not installed: {error}"
        ) from error
    except ValueError as error:
        if protocol in fsspec.available_protocols():
            raise
        raise ValueError(
            f"logging_dir: {protocol}:// is no protocol that fsspec knows. Name a local directory "
            f"or one of {', '.join(sorted(fsspec.available_protocols()))}."
        ) from error
    return opened, path.rstrip("/")


def names_in(opened: Any, path: str) -> list[str]:
    """Names of what lies in a remote directory; none if it does not exist."""
    opened.invalidate_cache()
    try:
        return [posixpath.basename(found.rstrip("/")) for found in opened.ls(path, detail=False)]
    except FileNotFoundError:
        return []


def claimed(directory: str) -> bool:
    """Claims a remote directory for a run, unless another run has it.

    Object stores can seldom make a file only if it is not there. So of two runs that claim at the
    same moment the last to put its mark has it, and the other sees so when it reads it.
    """
    opened, path = filesystem(directory)
    names = names_in(opened, path)
    if CLAIM in names or any(map(is_event_file, names)):
        return False
    mark = uuid.uuid4().hex.encode()
    opened.makedirs(path, exist_ok=True)
    opened.pipe_file(f"{path}/{CLAIM}", mark)
    return bool(opened.cat_file(f"{path}/{CLAIM}") == mark)


def claim_of(directory: str) -> str:
    """Returns the mark with which a run claimed a remote directory; empty text if there is none."""
    if directory not in _claims:
        try:
            opened, path = filesystem(directory)
            _claims[directory] = opened.cat_file(f"{path}/{CLAIM}").decode()
        except Exception:  # Missing, or out of reach.
            return ""
    return _claims[directory]


class RemoteEventFile:
    """Puts records into parts of a few megabytes, each a whole event file.

    Args:
        directory: URL of the run directory.
        purge_step: First step of earlier sessions that this session replaces, or `None`.
        suffix: End of the parts' names.
        continues: Whether the session has written another file already, so that the first part
            here has no START record.
    """

    hung_after_seconds = REMOTE_HUNG_SECONDS

    def __init__(
        self,
        directory: str,
        purge_step: int | None = None,
        suffix: str = "",
        continues: bool = False,
    ) -> None:
        self.path: str | None = None
        self._directory, self._suffix = directory, suffix
        self._purge_step, self._continues = purge_step, continues
        # The header of the newest part, and all that it holds so far.
        self._header = self._part = b""
        protocol = directory.split("://", 1)[0]
        self.seconds_between_appends = _SECONDS_BETWEEN_PUTS.get(protocol, 10.0)

    def append(self, records: Sequence[bytes]) -> Appended:
        """Puts the newest part again, with these records at its end.

        Args:
            records: Whole records.
        """
        try:
            opened, directory = filesystem(self._directory)
            if self.path is None or len(self._part) >= _PART_BYTES:
                self._begin_part(opened, directory)
            longer = b"".join((self._part or self._header, *records))
            opened.pipe_file(self.path, longer)
        except Exception as fault:  # Every store has exceptions of its own.
            return Appended(0, fault)
        self._part = longer
        self._continues = True
        return Appended(len(records))

    def sync(self) -> None:
        """Does nothing: a part that was put is stored."""

    def close(self) -> None:
        """Does nothing: no part stays open."""

    def _begin_part(self, opened: Any, directory: str) -> None:
        opened.makedirs(directory, exist_ok=True)
        newest = [os.path.basename(self.path)] if self.path else []
        existing = names_in(opened, directory) + newest
        is_empty = not any(map(is_event_file, existing))
        start = None if self._continues else first_start_step(self._purge_step, is_empty)
        name = event_file_name(existing, next(_numbers))
        self.path = f"{directory}/{name}{self._suffix}"
        self._header, self._part = file_header(start), b""
