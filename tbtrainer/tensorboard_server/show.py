"""Shows a run in TensorBoard, and prints where."""

import atexit
import shlex

from tbtrainer.redaction import shown
from tbtrainer.run import RunSession
from tbtrainer.tensorboard_server.notebook import display_page, is_notebook
from tbtrainer.tensorboard_server.server import Server, start_server

# The most servers of this process. Each takes some hundred megabytes of memory. In a notebook each
# trainer has a run of its own, and its page stays below its cell.
MOST_SERVERS = 4

# By directory, the oldest first.
_servers: dict[str, Server] = {}


def show_run(run: RunSession, port: int = 0, height: int = 800) -> str | None:
    """Starts TensorBoard on the directory of a run, or uses the server that is running.

    Prints the URL, the port and the command. In a notebook the page is displayed below the cell.

    Args:
        run: A run is opened, if there is none.
        port: The port to listen on, on localhost; 0 for a free one, or that of the running server.
        height: Of the page in a notebook, in pixels.

    Returns:
        The URL. On ranks that do not write `None`, and nothing is done.

    Raises:
        RuntimeError: The server did not start. The command is printed nevertheless.
    """
    directory = run.writer.log_dir
    if directory is None:
        return None
    run.flush()
    command = f"tensorboard --logdir {shlex.quote(str(shown(directory)))} --host localhost"
    try:
        server = _server_of(str(directory), port)
    except Exception:
        print(f"To look at the run: {command}", flush=True)
        raise
    number = server.port
    print(
        f"TensorBoard shows the run at {server.url} (port {number}), on this machine only.\n"
        f"The server ends with this process. To start it again: {command}\n"
        f"From another machine, run this there first: ssh -L {number}:localhost:{number} HOST",
        flush=True,
    )
    if is_notebook():
        display_page(server.url, number, height)
    return server.url


def _server_of(directory: str, port: int) -> Server:
    """Returns the running server of a directory, or a new one."""
    found = _servers.pop(directory, None)
    if found is not None and not (found.is_running and port in (0, found.port)):
        found.close()
        found = None
    _servers[directory] = found or start_server(directory, port)
    while len(_servers) > MOST_SERVERS:
        _servers.pop(next(iter(_servers))).close()
    return _servers[directory]


@atexit.register
def _close_servers() -> None:
    for server in _servers.values():
        server.close()
