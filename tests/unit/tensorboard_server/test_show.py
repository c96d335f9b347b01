"""Which server is used for a run: the one that is running, one per directory, and few in total."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbtrainer.run import RunSession
from tbtrainer.tensorboard_server import show, show_run
from tests.limits import HANG_SECONDS


@dataclass
class Served:
    """Stands for a server, which takes seconds to start."""

    directory: str
    port: int
    is_running: bool = True

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    def close(self) -> None:
        self.is_running = False


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Served]:
    """The servers that were started."""
    started: list[Served] = []

    def start(directory: str, port: int) -> Served:
        started.append(Served(directory, port or 6006 + len(started)))
        return started[-1]

    monkeypatch.setattr(show, "start_server", start)
    monkeypatch.setattr(show, "_servers", {})
    return started


@pytest.fixture
def session(tmp_path: Path) -> Iterator[RunSession]:
    session = RunSession(str(tmp_path / "a run"), str(tmp_path), writes=True)
    yield session
    session.close()


def session_in(directory: Path) -> RunSession:
    return RunSession(str(directory), str(directory), writes=True)


def test_url_port_and_command_are_printed(
    served: list[Served], session: RunSession, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert show_run(session) == "http://localhost:6006/"
    printed = capsys.readouterr().out
    assert "http://localhost:6006/ (port 6006)" in printed
    assert f"tensorboard --logdir '{tmp_path}/a run' --host localhost" in printed


def test_a_second_call_uses_the_running_server(served: list[Served], session: RunSession) -> None:
    assert show_run(session) == show_run(session) == show_run(session, port=6006)
    assert len(served) == 1


def test_a_server_that_has_ended_is_started_again(
    served: list[Served], session: RunSession
) -> None:
    show_run(session)
    served[0].close()
    assert show_run(session) == served[1].url


def test_another_port_takes_the_place_of_the_first(
    served: list[Served], session: RunSession
) -> None:
    show_run(session)
    assert show_run(session, port=7007) == "http://localhost:7007/"
    assert [server.is_running for server in served] == [False, True]


def test_the_oldest_of_many_servers_is_ended(served: list[Served], tmp_path: Path) -> None:
    for number in range(show.MOST_SERVERS + 1):
        show_run(session_in(tmp_path / str(number)))
    assert [server.is_running for server in served] == [False, *[True] * show.MOST_SERVERS]


def test_a_rank_that_does_not_write_shows_nothing(
    served: list[Served], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert show_run(RunSession(None, str(tmp_path), writes=False)) is None
    assert served == []
    assert capsys.readouterr().out == ""


def test_a_secret_in_the_directory_is_not_printed(
    served: list[Served], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    directory = "memory://user:MARKER7f3a9c@bucket/run"
    show_run(RunSession(directory, str(tmp_path), writes=True))
    assert "MARKER7f3a9c" not in capsys.readouterr().out
    assert "MARKER7f3a9c" in served[0].directory


def test_an_interrupt_while_it_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from tbtrainer.tensorboard_server import server

    started: list[subprocess.Popen] = []

    def interrupted(process: subprocess.Popen) -> str:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_first_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.start_server("nowhere")
    assert started[0].wait(HANG_SECONDS) is not None
