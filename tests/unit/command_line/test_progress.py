"""Progress is shown on a terminal's standard error, and nowhere else."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tbtrainer.command_line import progress
from tbtrainer.command_line.progress import progress_bar
from tests.event_runs import curve, write
from tests.limits import HANG_SECONDS


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("reading") as advanced:
        assert advanced is None
    assert stream.getvalue() == ""


def test_each_pass_over_the_files_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("reading") as advanced:
        assert advanced is not None
        for done in (0, 512, 1024, 256, 1024):
            advanced(done, 1024)
    assert "reading" in stream.getvalue()
    assert "/1.00k" in stream.getvalue()


def test_short_work_shows_no_bar(tmp_path: Path) -> None:
    write(tmp_path, curve("loss", range(5)))
    main_end, other_end = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "tbtrainer", "show", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=other_end,
        timeout=HANG_SECONDS,
        check=True,
    )
    os.write(other_end, b"end")
    assert os.read(main_end, 1000) == b"end"
