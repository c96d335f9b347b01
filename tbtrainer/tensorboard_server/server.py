"""A TensorBoard server in a child process, which ends with this process."""

import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# TensorBoard takes some seconds to start, and much longer on a machine that is busy.
START_SECONDS = 120.0
# The longest wait for the child process to end.
_END_SECONDS = 5.0
_PROGRAM = str(Path(__file__).with_name("serve.py"))


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Where it listens, such as `http://localhost:6006/`.
        process: The child process.
    """

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """The port it listens on."""
        return urlsplit(self.url).port or 80

    @property
    def is_running(self) -> bool:
        """Whether the child process has not ended, and is one of this process."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the server."""
        _end(self.process)


def start_server(directory: str, port: int = 0) -> Server:
    """Starts TensorBoard on a directory and waits until it listens, on this machine only.

    Args:
        directory: The `--logdir`. It need not exist yet.
        port: The port to listen on; 0 for a free one.

    Raises:
        RuntimeError: It did not start. The message has the end of what it printed.
    """
    flags = ["--logdir", directory, "--host", "localhost", "--port", str(port)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, _PROGRAM, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Of its own, so that interrupting a cell of a notebook does not end it.
            start_new_session=True,
        )
        # Reading a line has no time limit. When the process is killed, the line is empty.
        limit = threading.Timer(START_SECONDS, process.kill)
        limit.start()
        try:
            url = _first_line(process)
        except BaseException:
            _end(process)
            raise
        finally:
            limit.cancel()
        if not url.startswith("http"):
            _end(process)
            errors.seek(0)
            printed = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"TensorBoard did not start on port {port}: {printed[-1000:]}")
    return Server(url, process)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    """Closes the pipes of a child process, which ends it, and waits for its end."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
