"""Where a command prints to: standard output, until its reader has gone."""

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tbtrainer.command_line.sparkline import blocks_for
from tbtrainer.command_line.terminal_text import json_line


class Output:
    """Prints lines.

    A program such as `head` may close the pipe. What follows is then not printed, and the command
    ends as if it were.

    Args:
        stream: Where to; `None` for standard output.

    Attributes:
        is_closed: Whether the reader of the output has gone.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        # A process may be started without a standard output.
        self.is_closed = self._stream is None
        # An encoding such as ASCII has no letter for every tag.
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    @property
    def blocks(self) -> str:
        """The characters of a sparkline, which the encoding can show."""
        return blocks_for(getattr(self._stream, "encoding", None))

    def lines(self, lines: Iterable[str]) -> None:
        """Prints lines. They are printable: see `tbtrainer.command_line.terminal_text`."""
        self.write("".join(f"{line}\n" for line in lines))

    def json(self, value: Any) -> None:
        """Prints a value as one line of JSON."""
        self.write(f"{json_line(value)}\n")

    def write(self, text: str) -> None:
        """Prints a text at once."""
        if self.is_closed:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            self.is_closed = True
            # Python flushes standard output when it ends, and would report the pipe again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
