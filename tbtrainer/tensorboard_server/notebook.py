"""TensorBoard's page in the output of a notebook's cell: Jupyter, Colab and VS Code."""

import os
import random
import sys
from typing import Any

from tbtrainer.random_states import RandomStates


def is_notebook() -> bool:
    """Whether this process runs the cells of a notebook. An IPython terminal is none."""
    shell = _shell()
    return shell is not None and (_is_colab() or shell.has_trait("kernel"))


def display_page(url: str, port: int, height: int) -> None:
    """Displays TensorBoard's page below the cell that is running.

    Args:
        url: Where the server listens.
        port: Its port.
        height: Of the page, in pixels.
    """
    states = RandomStates.now()
    # TensorBoard's function draws a random number for the id of its frame. The states are restored,
    # so that number would be the same at each call, and the second frame would stay empty.
    random.seed()
    try:
        if _is_vscode():
            # The page of VS Code has no host of its own, so TensorBoard's frame would find none.
            # VS Code forwards ports of localhost from a remote machine.
            from IPython.display import IFrame, display

            display(IFrame(url, "100%", height))
        else:
            from tensorboard import notebook

            notebook.display(port=port, height=height)
    finally:
        states.restore()


def _shell() -> Any:
    """Returns the shell of IPython, or `None`. Does not import IPython."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get_shell is None else get_shell()


def _is_colab() -> bool:
    return "google.colab" in sys.modules


def _is_vscode() -> bool:
    # The first is set by VS Code's extension for Jupyter in the kernel, the second in its process.
    return "__vsc_ipynb_file__" in getattr(_shell(), "user_ns", {}) or "VSCODE_PID" in os.environ
