"""`trainer.show()` opens a real TensorBoard on the run, which ends with the process."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.tensorboard_server import show
from tests import tiny
from tests.documented import GIVEN, ROOT, python_blocks
from tests.faults.disk import wait_until
from tests.limits import HANG_SECONDS
from tests.tensorboard_server import TensorBoardServer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A trainer whose run was shown before its training, and the URL."""
    directory = tmp_path_factory.mktemp("show")
    args = tiny.arguments(TBTrainingArguments, directory, logging_dir=str(directory / "run"))
    trainer = tiny.trainer(TBTrainer, args)
    url = trainer.show()
    trainer.train()
    yield trainer, url
    show._close_servers()


def test_a_page_that_was_opened_before_shows_the_training(trained: tuple[Any, str]) -> None:
    TensorBoardServer(trained[1]).wait_for("scalars", "train/loss")


def test_only_this_machine_can_reach_the_server(trained: tuple[Any, str]) -> None:
    (server,) = show._servers.values()
    child = psutil.Process(server.process.pid)
    listening = [
        connection.laddr
        for process in (child, *child.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert server.port in {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_a_second_call_after_the_training_returns_the_url(trained: tuple[Any, str]) -> None:
    trainer, url = trained
    assert trainer.show() == url


def test_a_port_in_use_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    trainer = tiny.trainer(TBTrainer, tiny.arguments(TBTrainingArguments, tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert trainer.show(port=port) is None
    assert f"TensorBoard did not start on port {port}" in caplog.text
    assert f"tensorboard --logdir {trainer.writer.log_dir}" in capsys.readouterr().out


SHOWING = """
import sys, time
from tbtrainer.run import RunSession
from tbtrainer.tensorboard_server import show_run

print(show_run(RunSession("run", ".", writes=True)), flush=True)
if sys.argv[1] == "wait":
    time.sleep(10_000)
"""


@pytest.mark.parametrize("end", ["return", "kill"])
def test_the_server_ends_with_its_process(end: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SHOWING, "wait" if end == "kill" else "return"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = next(line for line in process.stdout if line.startswith("http")).strip()
    if end == "kill":
        process.send_signal(signal.SIGKILL)
    process.wait(HANG_SECONDS)
    wait_until(lambda: not answers(url))


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=HANG_SECONDS).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


# The cells of the documentation, and two that look like other notebooks.
STATE = "state = random.getstate()"
BEGIN, TRAIN, AGAIN = python_blocks("notebooks.md")
CELLS = [
    "import random\n" + GIVEN + BEGIN.replace("trainer.show()", f"{STATE}\ntrainer.show()"),
    f"assert random.getstate() == state\n{TRAIN}",
    AGAIN,
    "import os; os.environ['VSCODE_PID'] = '1'; url = trainer.show()",
    """\
import sys, types
del os.environ["VSCODE_PID"]
sys.modules["google.colab"] = types.ModuleType("google.colab")
url = trainer.show()
""",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the cells of a notebook show below them, one text each."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, CELLS)])
    directory = str(tmp_path_factory.mktemp("notebook"))
    client = nbclient.NotebookClient(
        notebook, timeout=HANG_SECONDS, resources={"metadata": {"path": directory}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    return [" ".join(map(shown, cell.outputs)) for cell in notebook.cells]


def shown(output: Any) -> str:
    """The richest form of an output."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind in ("application/javascript", "text/html", "text/plain"):
        if kind in data:
            return str(data[kind])
    return ""


def test_a_notebook_shows_the_page_below_the_cell(outputs: list[str]) -> None:
    (port,) = re.findall(r"const port = (\d+);", outputs[0])
    assert f"http://localhost:{port}/ (port {port})" in outputs[0]
    assert 'height="1000"' in outputs[2]


def test_two_pages_of_a_notebook_have_frames_of_their_own(outputs: list[str]) -> None:
    first, second = (re.findall(r'iframe id="([^"]+)"', outputs[cell]) for cell in (0, 2))
    assert len(first) == len(second) == 1
    assert first != second


def test_the_progress_table_of_a_notebook_stays(outputs: list[str]) -> None:
    assert "[24/24" in outputs[1]
    assert re.search(r"<th>Training Loss</th>\s*<th>Validation Loss</th>", outputs[1])
    assert re.search(r"<td>3</td>\s*<td>No log</td>\s*<td>0\.\d+</td>", outputs[1])


def test_vs_code_gets_a_frame_with_the_whole_address(outputs: list[str]) -> None:
    (url,) = set(re.findall(r"run at (\S+) ", outputs[3]))
    assert f'src="{url}"' in outputs[3]


def test_colab_gets_the_page_through_its_proxy(outputs: list[str]) -> None:
    assert re.search(r"google\.colab\.kernel\.proxyPort\(\d+", outputs[4])
