"""Faulty disks: a real one that is full, and system calls that fail, lag or hang."""

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tbtrainer.run import event_file


def may_mount() -> bool:
    """Whether this process may mount a file system of its own."""
    return os.geteuid() == 0 and subprocess.run(["mount"], capture_output=True).returncode == 0


@contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size."""
    directory.mkdir(exist_ok=True)
    options = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def writes(instead: Callable[[int, bytes], int]) -> Iterator[None]:
    """Replaces the system call with which the event file writes, and nothing else."""
    original = event_file.os_write
    event_file.os_write = instead
    try:
        yield
    finally:
        event_file.os_write = original


def failing(code: int, torn: bool = False) -> Callable[[int, bytes], int]:
    """Fails with an error; `torn` writes half of the data first."""

    def write(descriptor: int, data: bytes) -> int:
        if torn:
            os.write(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    return write


def short(descriptor: int, data: bytes) -> int:
    """Writes at most seven bytes at a time, as the system may."""
    return os.write(descriptor, bytes(data)[:7])


def slow(descriptor: int, data: bytes) -> int:
    """Takes 100 ms for every write."""
    time.sleep(0.1)
    return os.write(descriptor, data)


def hung(released: threading.Event) -> Callable[[int, bytes], int]:
    """Does not return before it is released."""

    def write(descriptor: int, data: bytes) -> int:
        released.wait()
        raise OSError(errno.EIO, "released")

    return write
