"""The environment as a table: versions, hardware, git commit and command line."""

import os
import platform
import shlex
import socket
import sys
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from tbtrainer import tags
from tbtrainer.observers.card_tables import bytes_shown, code, facts_table, sections
from tbtrainer.observers.git_state import git_commit, uncommitted_changes
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.panels.markdown import cell
from tbtrainer.records import Deferred, Text
from tbtrainer.redaction import redacted
from tbtrainer.run.time_limit import within
from tbtrainer.sharding.world import world_size

# The longest that all questions about the git commit may take, also on a disk that hangs.
MOST_GIT_SECONDS = 20.0
_MOST_COMMAND_CHARACTERS = 2000

_ALWAYS = ("tbtrainer", "torch", "transformers", "accelerate", "tensorboard", "numpy")
# Shown if the training has imported them.
_IF_IMPORTED = (
    *("deepspeed", "peft", "trl", "datasets", "evaluate", "bitsandbytes", "flash_attn"),
    *("liger_kernel", "triton", "optuna", "ray"),
)


class EnvironmentCard(Observer):
    """Shows in which environment a training runs, as world rank zero sees it, without secrets."""

    def run_begins(self, step: int, training: Training) -> list[Deferred]:
        """Returns the card, deferred, because git and the packages are read from the disk.

        The run does not write it again while nothing has changed.
        """
        if not training.is_world_process_zero:
            return []
        device, directory, command = training.device, _working_directory(), command_line()
        return [Deferred(lambda: [environment_card(device, directory, command)])]


def environment_card(device: torch.device, directory: str, command: str) -> Text:
    """Returns the card.

    Args:
        device: Of the training, on this process.
        directory: The working directory.
        command: The command line, without its secrets.
    """
    tables = (
        facts_table("Program", _program(directory, command)),
        facts_table("Hardware of world rank zero", _hardware(device)),
        facts_table("Versions", _versions()),
    )
    return Text(tags.RUN_ENVIRONMENT.name, sections(tables), once=True)


def command_line() -> str:
    """Returns the command that started this process, without its secrets."""
    return shlex.join(str(word) for word in redacted(list(sys.orig_argv)))


# ---- What the card shows ----


def _versions() -> dict[str, str]:
    imported = (name for name in _IF_IMPORTED if name in sys.modules)
    versions = {name: _version_of(name) for name in (*_ALWAYS, *imported)}
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "Python": cell(platform.python_version()),
        **versions,
        "CUDA of torch": cell(torch.version.cuda or ""),
        "ROCm of torch": cell(torch.version.hip or ""),
        "cuDNN": str(cudnn or ""),
    }


def _version_of(name: str) -> str:
    try:
        return cell(version(name))
    except PackageNotFoundError:  # A module that is not installed as a package of this name.
        return ""


def _hardware(device: torch.device) -> dict[str, str]:
    processes, on_host = world_size(), os.environ.get("LOCAL_WORLD_SIZE", "")
    return {
        "host": code(socket.gethostname()),
        "system": cell(platform.platform()),
        "CPU": cell(_cpu_name()),
        "CPU cores": _cores(),
        "memory": bytes_shown(psutil.virtual_memory().total),
        "devices": _devices(device),
        "processes": f"{processes:,}" + (f", {on_host} on this host" if on_host else ""),
    }


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # It was deleted.
        return ""


def _program(directory: str, command: str) -> dict[str, str]:
    try:
        commit, changes = within(MOST_GIT_SECONDS, _git_state, directory)
    except TimeoutError:
        commit = changes = ""
    return {
        "command": code(command, _MOST_COMMAND_CHARACTERS),
        "directory": code(str(redacted(directory))),
        "git commit": cell(commit),
        "uncommitted changes": changes,
    }


def _git_state(directory: str) -> tuple[str, str]:
    commit = git_commit(directory)
    return commit, uncommitted_changes(directory) if commit else ""


def _cpu_name() -> str:
    """Returns the name of the processor. `platform.processor` would start another program."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            named = (line.partition(":")[2] for line in file if line.startswith("model name"))
            return next(named, "").strip() or platform.machine()
    except OSError:  # Not Linux.
        return platform.machine()


def _cores() -> str:
    """Returns how many cores this process may use, and how many there are."""
    total = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{usable:,}" if usable == total else f"{usable:,} of {total:,}"


def _devices(device: torch.device) -> str:
    """Returns name, number and memory of the accelerators that this process sees."""
    if device.type != "cuda":
        return device.type
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    memory = torch.cuda.get_device_properties(device).total_memory
    kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    return cell(f"{kinds}, {bytes_shown(memory)} each")
