"""Headless Chromium, driven over a pipe: nothing has to be installed beside the browser."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# For a browser that does not end.
WAIT_SECONDS = 300

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str:
    """Returns the path of a Chromium, or ends with a sentence that says how to get one."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise SystemExit("There is no Chromium on this machine; on Debian: apt-get install chromium")


@dataclass(frozen=True)
class Area:
    """A part of a page, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


class Page:
    """One page of a running browser.

    Args:
        commands: Where the browser reads, a file descriptor.
        answers: Where it writes, a file descriptor.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._unread = b""
        self._number = 0
        self._session: str | None = None

    def open(self, address: str) -> None:
        """Goes to an address in a page of its own."""
        target = self.call("Target.createTarget", url=address)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def evaluate(self, script: str) -> Any:
        """Runs JavaScript in the page and returns its value."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def picture(self, area: Area | None = None) -> bytes:
        """Returns what is to be seen, as a PNG.

        Args:
            area: The part of the page that is in the picture; `None` for all of it.
        """
        clip = {} if area is None else {"clip": {**asdict(area), "scale": 1}}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command of the DevTools protocol and returns its answer."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = json.loads(self._next_message())
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _next_message(self) -> bytes:
        while b"\0" not in self._unread:
            received = os.read(self._answers, 1 << 20)
            assert received, "Chromium has ended"
            self._unread += received
        message, self._unread = self._unread.split(b"\0", 1)
        return message


@contextmanager
def chromium(width: int, height: int) -> Iterator[Page]:
    """Starts a browser without a window.

    Args:
        width: Of the page, in pixels.
        height: Of the page, in pixels.
    """
    # The browser reads its commands from descriptor 3 and answers on 4, which the shell sets up.
    its_commands, commands = _pipe()
    answers, its_answers = _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{its_commands} 4>&{its_answers}',
                "bash",
                executable(),
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                f"--user-data-dir={Path(profile)}",
                f"--window-size={width},{height}",
            ],
            pass_fds=(its_commands, its_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_commands)
        os.close(its_answers)
        try:
            yield Page(commands, answers)
        finally:
            process.terminate()
            process.wait(timeout=WAIT_SECONDS)
            os.close(commands)
            os.close(answers)


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are out of the way of 3 and 4."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
