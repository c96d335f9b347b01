"""Writes a file of JSON lines in a thread of its own, as an event file is written."""

import os
from typing import Any

from tbtrainer.event_file.delivery import Delivery
from tbtrainer.event_file.fallback import FallbackLines
from tbtrainer.event_file.json_lines import MOST_BYTES
from tbtrainer.event_file.json_lines_file import JsonLinesFile
from tbtrainer.event_file.writer import this_process
from tbtrainer.redaction import redacted_text


class JsonLinesWriter:
    """Writes one file of JSON lines in a run directory. It is created with the first line.

    A fault of the disk is never raised. Lines that cannot be written are kept and retried, at most
    `MOST_BYTES` of them: the oldest are dropped first, and the dropped ones are counted. Copies of
    a writer, and the writer in a forked process, write nothing.

    Args:
        logdir: The run directory: a local path, or a URL that fsspec knows.
        name: Name of the file.
        file_mode: Permissions of a local file, before the process's umask.
        sync: Whether a local file is forced to the disk with each line.
    """

    def __init__(self, logdir: str, name: str, file_mode: int = 0o666, sync: bool = False) -> None:
        self._process: tuple[int, str] | None = this_process()
        run = os.path.basename(os.path.normpath(logdir))
        self._delivery = Delivery(
            JsonLinesFile(logdir, name, file_mode, sync),
            FallbackLines(run, name),
            redacted_text(f"{logdir.rstrip('/')}/{name}"),
            MOST_BYTES,
        )

    def put(self, line: bytes) -> None:
        """Adds a line, with its line break. The thread writes it."""
        if self._writes:
            self._delivery.put(line, is_scalar=False)

    def flush(self, seconds: float) -> None:
        """Waits at most `seconds` until the lines added so far are written.

        Ends at once during a fault, and when the disk hangs; see `tbtrainer.event_file.waiting`.
        """
        if self._writes:
            self._delivery.flush(seconds, sync=False)

    def begin_close(self) -> None:
        """Requests to write what waits and to close the file, and does not wait for it."""
        if self._writes:
            self._delivery.close(0.0)

    def end_close(self, seconds: float) -> None:
        """Waits at most `seconds` for the end of a close. A later line opens the file again.

        Lines that cannot be written to the run directory are written to a fallback file, and a
        warning names it.
        """
        if self._writes:
            self._delivery.report_close(self._delivery.close(seconds))

    @property
    def _writes(self) -> bool:
        return self._process == this_process()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy, which writes nothing: two would replace the same file."""
        return {"_process": None}
