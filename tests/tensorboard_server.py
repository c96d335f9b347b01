"""A real TensorBoard server, asked over HTTP like a browser asks it."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.limits import HANG_SECONDS


class TensorBoardServer:
    """Answers of a running TensorBoard.

    Args:
        address: Where it listens, as `http://localhost:6006/`.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **query: str) -> Any:
        """Returns the parsed answer to `/data/{path}`."""
        url = f"{self.address}data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=HANG_SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, request: dict[str, Any]) -> Any:
        """Returns the parsed answer to a request that is sent to `/data/{path}`."""
        sent = urllib.request.Request(
            f"{self.address}data/{path}",
            data=json.dumps(request).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(sent, timeout=HANG_SECONDS) as answer:
            return json.load(answer)

    def tags(self, plugin: str) -> list[str]:
        """Tags that a plugin shows, of all runs below the directory."""
        runs = self.ask(f"plugin/{plugin}/tags")
        return sorted({tag for tags in runs.values() for tag in tags})

    def wait_for(self, plugin: str, tag: str) -> None:
        """Waits until the server shows a tag."""
        self._wait_until(lambda: tag in self.tags(plugin), repr(tag))

    def wait_for_run(self, plugin: str, run: str, tag: str) -> None:
        """Waits until the server shows a tag of a run."""
        self._wait_until(
            lambda: tag in self.ask(f"plugin/{plugin}/tags").get(run, {}), f"{tag!r} of {run!r}"
        )

    def _wait_until(self, is_shown: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while not is_shown():
            assert time.monotonic() < deadline, f"TensorBoard never showed {what}"
            time.sleep(0.2)


@contextmanager
def tensorboard(directory: Path, load_fast: bool) -> Iterator[TensorBoardServer]:
    """Runs TensorBoard on a directory, on a free port.

    Args:
        directory: The `--logdir`.
        load_fast: Whether the data server in Rust reads the event files, or the one in Python.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory)]
    command += ["--port", "0", "--reload_interval", "1", "--host", "localhost"]
    command += ["--load_fast", "true" if load_fast else "false"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield TensorBoardServer(_address(process))
    finally:
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)


def _address(process: subprocess.Popen) -> str:
    printed = []
    assert process.stderr is not None
    for line in process.stderr:
        printed.append(line)
        found = re.search(r"at (http://\S+/)", line)
        if found:
            return found.group(1)
    raise AssertionError(f"TensorBoard did not start: {''.join(printed)}")
