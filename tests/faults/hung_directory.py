"""A directory whose every call hangs: a FUSE file system that answers no request."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.disk import may_mount

_DETACH = 2


def may_hang() -> bool:
    """Whether this process may mount a FUSE file system."""
    return may_mount() and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextmanager
def hung_directory(directory: Path) -> Iterator[None]:
    """Covers a directory. Its calls fail when it ends; files open before are not touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    channel = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={channel},rootmode=40000,user_id=0,group_id=0".encode()
    target = os.fsencode(directory)
    if libc.mount(b"hung", target, b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), f"cannot cover {directory}")
    try:
        yield
    finally:
        libc.umount2(target, _DETACH)
        os.close(channel)
