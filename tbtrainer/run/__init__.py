"""The run directory: choosing, claiming and writing it, and continuing it after a resume."""

import importlib
from typing import TYPE_CHECKING, Any

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.waiting import CHECKPOINT_SECONDS
from tbtrainer.run.claim import claim_run_directory
from tbtrainer.run.directory import check_run_directory
from tbtrainer.run.mirrors import Mirrors
from tbtrainer.run.rewind import rewind
from tbtrainer.run.termination import flushed_on_sigterm

if TYPE_CHECKING:
    from tbtrainer.run.session import RunSession
    from tbtrainer.run.silent_writer import SilentWriter
    from tbtrainer.run.summary_writer import RunWriter

__all__ = [
    "CHECKPOINT_SECONDS",
    "Counters",
    "Mirrors",
    "RunSession",
    "RunWriter",
    "SilentWriter",
    "check_run_directory",
    "claim_run_directory",
    "flushed_on_sigterm",
    "rewind",
]

# Imported when they are first used: they need PyTorch, and the command line, which reads claims,
# starts without it.
_WRITERS = {
    "RunSession": "tbtrainer.run.session",
    "RunWriter": "tbtrainer.run.summary_writer",
    "SilentWriter": "tbtrainer.run.silent_writer",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used."""
    if name not in _WRITERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WRITERS[name]), name)
    globals()[name] = value
    return value
