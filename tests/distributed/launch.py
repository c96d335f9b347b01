"""Starts a script under torchrun and reads its verdict."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_SECONDS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[deepspeed]'"
)


def launch(
    script: str,
    *arguments: str,
    processes: int = 2,
    nodes: int = 1,
    restarts: int = 0,
    environment: dict[str, str] | None = None,
) -> Any:
    """Runs a script of this folder on several processes of this machine.

    Args:
        script: File name in this folder.
        arguments: Command-line arguments of the script.
        processes: Processes per node.
        nodes: Groups of processes; each behaves like a machine of its own.
        restarts: How often torchrun starts the processes again after a crash.
        environment: Variables set on top of this process's own.

    Returns:
        The last line of JSON that any rank printed.
    """
    port = _free_port()
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *_rendezvous(port, elastic=restarts > 0),
                *("--nnodes", str(nodes), "--node-rank", str(node)),
                *("--nproc-per-node", str(processes), "--max-restarts", str(restarts)),
                *(str(HERE / script), *arguments),
            ],
            cwd=ROOT,
            env={**os.environ, **_environment(restarts > 0), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for node in range(nodes)
    ]
    try:
        outputs = [process.communicate(timeout=HANG_SECONDS)[0] for process in started]
    except subprocess.TimeoutExpired:
        for process in started:
            process.terminate()  # torchrun ends its workers.
        outputs = [process.communicate()[0] for process in started]
        raise AssertionError(
            f"{script} took longer than {HANG_SECONDS} s:\n{_tail(outputs)}"
        ) from None
    if any(process.returncode != 0 for process in started):
        raise AssertionError(f"{script} failed:\n{_tail(outputs)}")
    return _verdict(outputs)


def _rendezvous(port: int, elastic: bool) -> list[str]:
    """Returns the options of torchrun that say where the processes find each other."""
    if elastic:  # A fixed address works for the first start only.
        return ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    return ["--master-addr", "127.0.0.1", "--master-port", str(port)]


def _environment(elastic: bool) -> dict[str, str]:
    return {
        # In a store shared by all starts the second one finds the addresses of the first.
        **({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if elastic else {}),
        "PYTHONPATH": str(ROOT),
        # Two cores, at least two processes.
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "DS_ACCELERATOR": "cpu",
        "TRITON_INTERPRET": "0",
        # DeepSpeed's bfloat16 optimizer would compile a copy for half a minute.
        "TORCHDYNAMO_DISABLE": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _verdict(outputs: list[str]) -> Any:
    for line in reversed("\n".join(outputs).splitlines()):
        if line.startswith(("{", "[")):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    raise AssertionError(f"no verdict was printed:\n{_tail(outputs)}")


def _tail(outputs: list[str]) -> str:
    return "\n--\n".join(output[-6000:] for output in outputs)
