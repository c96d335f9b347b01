"""A file system on which every call hangs when it is asked to."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).with_name("fuse_server.py")
_DETACH = 2


class HangingDisk:
    """A mounted file system in memory.

    Args:
        directory: Where it is mounted.
        server: The process that answers its calls.
    """

    def __init__(self, directory: Path, server: int) -> None:
        self.directory, self.server = directory, server

    def hang(self) -> None:
        """Makes every call hang from now on."""
        hang(self.server)

    def answer(self) -> None:
        """Lets the calls that hang, and all later ones, be answered."""
        answer(self.server)


def hang(server: int) -> None:
    """Stops a server, and returns when it has stopped."""
    os.kill(server, signal.SIGUSR1)
    while Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


def answer(server: int) -> None:
    """Lets a stopped server continue."""
    os.kill(server, signal.SIGCONT)


@functools.cache
def why_not_mountable() -> str | None:
    """Returns why no FUSE file system can be mounted here, or `None` if it can."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        with tempfile.TemporaryDirectory() as place, hanging_disk(Path(place) / "disk"):
            return None
    except RuntimeError as error:
        return str(error)


@contextmanager
def hanging_disk(directory: Path) -> Iterator[HangingDisk]:
    """Mounts the file system on a directory, and takes it away whatever happens."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-I", str(SERVER), str(directory)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if server.stdout.readline() != "mounted\n":
            said = server.communicate()[1].strip()
            raise RuntimeError(f"no FUSE file system can be mounted: {said.rpartition(chr(10))[2]}")
        yield HangingDisk(directory, server.pid)
    finally:
        # The end of the server ends every call that hangs, with an error.
        server.kill()
        server.communicate()
        ctypes.CDLL(None).umount2(os.fsencode(directory), _DETACH)
