"""Tags and values in, event files out: the run directory, its writer, and its past."""

from tbtrainer.event_file.record_queue import Counters
from tbtrainer.run.directory import (
    check_run_directory,
    claim_run_directory,
    default_run_directory,
)
from tbtrainer.run.rewind import rewind
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.session import RunSession
from tbtrainer.run.silent_writer import SilentWriter
from tbtrainer.run.summary_writer import RunWriter
from tbtrainer.run.termination import flushed_on_sigterm

__all__ = [
    "Counters",
    "RunSession",
    "RunWriter",
    "SavedRun",
    "SilentWriter",
    "check_run_directory",
    "claim_run_directory",
    "default_run_directory",
    "flushed_on_sigterm",
    "rewind",
]
