"""The run directory: choosing, claiming and writing it, and continuing it after a resume."""

from tbtrainer.event_file.record_queue import Counters
from tbtrainer.event_file.waiting import CHECKPOINT_SECONDS
from tbtrainer.run.claim import claim_run_directory
from tbtrainer.run.directory import check_run_directory
from tbtrainer.run.rewind import rewind
from tbtrainer.run.session import RunSession
from tbtrainer.run.silent_writer import SilentWriter
from tbtrainer.run.summary_writer import RunWriter
from tbtrainer.run.termination import flushed_on_sigterm

__all__ = [
    "CHECKPOINT_SECONDS",
    "Counters",
    "RunSession",
    "RunWriter",
    "SilentWriter",
    "check_run_directory",
    "claim_run_directory",
    "flushed_on_sigterm",
    "rewind",
]
