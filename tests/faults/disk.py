"""Faulty disks: a real one that is full, and system calls that fail, lag or hang."""

import errno
import functools
import itertools
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbtrainer.event_file import local_file
from tests.limits import HANG_SECONDS


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until the thread of an event file has done something."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount a file system of its own."""
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "tmpfs", place]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            return False
        subprocess.run(["umount", place], check=True)
    return True


@contextmanager
def small_disk(directory: Path, options: str = "size=64k") -> Iterator[Path]:
    """A file system of its own, mounted on a directory."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], capture_output=True)


@contextmanager
def without_room(directory: Path) -> Iterator[None]:
    """Fills the file system of a directory to its last byte."""
    ballast = directory / "ballast"
    with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1024))
    yield
    ballast.unlink()


def lose(directory: Path) -> None:
    """Takes a file system away while files on it are open."""
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def writes(instead: Callable[[int, bytes], int]) -> Iterator[None]:
    """Replaces the system call with which the event file writes, and nothing else."""
    original = local_file.os_write
    local_file.os_write = instead
    try:
        yield
    finally:
        local_file.os_write = original


def failing(code: int, torn: bool = False) -> Callable[[int, bytes], int]:
    """Fails with an error; `torn` writes half of the data first."""

    def write(descriptor: int, data: bytes) -> int:
        if torn:
            os.write(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    return write


def failing_once(code: int) -> Callable[[int, bytes], int]:
    """Writes a part of the first data, and then fails once."""
    calls = itertools.count()

    def write(descriptor: int, data: bytes) -> int:
        call = next(calls)
        if call == 1:
            raise OSError(code, os.strerror(code))
        return os.write(descriptor, bytes(data)[: 10 if call == 0 else None])

    return write


def full(after_bytes: int) -> Callable[[int, bytes], int]:
    """Takes so many bytes, the last of them in a short write, and then is full."""
    room = after_bytes

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = os.write(descriptor, bytes(data)[:room])
        room -= done
        return done

    return write


def short(descriptor: int, data: bytes) -> int:
    """Writes at most seven bytes at a time, as the system may."""
    return os.write(descriptor, bytes(data)[:7])


def slow(descriptor: int, data: bytes) -> int:
    """Takes 100 ms for every write."""
    time.sleep(0.1)
    return os.write(descriptor, data)


def hung(
    released: threading.Event, entered: threading.Event | None = None
) -> Callable[[int, bytes], int]:
    """Does not return before it is released; `entered` is set when it begins."""

    def write(descriptor: int, data: bytes) -> int:
        if entered is not None:
            entered.set()
        released.wait()
        return os.write(descriptor, data)

    return write
