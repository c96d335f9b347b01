"""Runs to rewind, and rewinds that end in the middle."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbtrainer.event_file.records import whole_records
from tbtrainer.run import RunWriter, rewind


def written(directory: Path, steps: list[int], purge_step: int | None = None) -> None:
    writer = RunWriter(str(directory), purge_step)
    for step in steps:
        writer.add_scalar("value", step, step)
    writer.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Crash(BaseException):
    pass


def records(path: Path) -> list[bytes]:
    with open(path, "rb") as file:
        return list(whole_records(file))


def crashed_at(moment: int, run: Path, kill: bool = False) -> bool:
    """Rewinds, and ends at the call of this number that changes the disk; see `crash_at`."""
    return crash_at(moment, lambda: rewind(str(run), 5), kill)


def crash_at(moment: int, change: Callable[[], object], kill: bool = False) -> bool:
    """Changes files, and ends at the call of this number that changes the disk.

    Args:
        moment: The number of the call.
        change: Changes the files.
        kill: Whether the process ends there, so that it cleans up after nothing.

    Returns:
        Whether there was such a call.
    """
    calls = itertools.count()
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "open", "chmod")}

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == moment:
                if kill:
                    os._exit(9)
                raise Crash
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name, original in originals.items():
            patched.setattr(os, name, watched(original))
        try:
            change()
        except Crash:
            return True
    return False
