"""Which process wrote an event file, and whether one is still writing it.

A claim names the run and its training, but no process. The name of an event file has the host and
the id of the process that made it.
"""

import os
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import psutil

# `events.out.tfevents.<seconds>.<host>.<pid>`, and then `.<n>` or, in files of tbtrainer, `-<n>`.
_NAME = re.compile(r"events\.out\.tfevents\.(\d{1,12})\.(.+?)\.(\d{1,9})[.-]\d+(?:\.[\w.-]+)?")
# A process that started so long after the file's name was chosen did not make it: its id was given
# out again. The name has whole seconds.
_SLACK_SECONDS = 2.0

Presence = Literal["running", "ended", "unknown"]


@dataclass(frozen=True)
class WritingProcess:
    """The process that made an event file, as the file's name says.

    Attributes:
        began: When the file was made, in seconds since 1970.
        host: Where the process ran.
        pid: Its id.
    """

    began: int
    host: str
    pid: int

    def presence(self) -> Presence:
        """Returns whether the process still runs; `"unknown"` if it ran on another machine."""
        if self.host != socket.gethostname():
            return "unknown"
        try:
            started: float = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return "ended"
        except psutil.Error:
            return "unknown"
        return "running" if started <= self.began + _SLACK_SECONDS else "ended"


def writing_process(file_name: str) -> WritingProcess | None:
    """Returns the process that made an event file; `None` if the name does not say.

    Example:
        >>> writing_process("events.out.tfevents.1700000000.gpu-1.local.4242-0")
        WritingProcess(began=1700000000, host='gpu-1.local', pid=4242)
    """
    found = _NAME.fullmatch(file_name)
    return WritingProcess(int(found[1]), found[2], int(found[3])) if found else None


def processes_that_write(paths: Collection[str]) -> list[int]:
    """Returns the ids of the processes of this machine that write some files, or may.

    These are the processes that have a file open for writing, and those that a file's name names,
    because tensorboard's own writer opens the file anew for each flush. Open files of other users'
    processes are only seen by root.

    Args:
        paths: Local files.
    """
    files = {identity for path in paths if (identity := _identity(path)) is not None}
    found = {
        process.pid
        for path in paths
        if (process := writing_process(os.path.basename(path))) is not None
        and process.presence() == "running"
    }
    for process in psutil.process_iter():
        try:
            opened = process.open_files()
        except (psutil.Error, OSError):
            continue
        # macOS does not say how a file was opened; TensorBoard, too, has event files open.
        writes = {file.path for file in opened if getattr(file, "mode", "w") != "r"}
        if any(_identity(path) in files for path in writes):
            found.add(process.pid)
    return sorted(found)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
