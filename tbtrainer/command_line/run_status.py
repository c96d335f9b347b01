"""Whether a run is finished, failed or running."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tbtrainer.command_line.writing_process import Presence, writing_process
from tbtrainer.reading import HParams, ScannedFile, Session

Name = Literal["finished", "failed", "running", "unknown"]
_ENDS: dict[str | None, Name] = {"success": "finished", "failure": "failed"}
# The clocks of a record's time and of the times in a status record are the same, but the latter may
# have been rounded to seconds.
_SLACK_SECONDS = 1.0


@dataclass(frozen=True)
class RunStatus:
    """Whether a run is finished, failed or running.

    Attributes:
        name: Which of them; `"unknown"` if the run does not show it.
        reason: How that is known, as part of a sentence.
    """

    name: Name
    reason: str


def status_of(hparams: HParams, sessions: Sequence[Session], presence: Presence) -> RunStatus:
    """Returns the status of a run.

    Args:
        hparams: Of the run. They hold how the training ended, if the run records that.
        sessions: Of the run, in the order read.
        presence: Whether the process still runs that wrote the newest event file.
    """
    end = _ENDS.get(hparams.status)
    latest_begin = sessions[-1].first_wall_time if sessions else float("-inf")
    is_of_latest = hparams.end_time is None or hparams.end_time + _SLACK_SECONDS >= latest_begin
    if end is not None and is_of_latest:
        return RunStatus(end, "as the run recorded at its end")
    if presence == "running":
        return RunStatus("running", "the process that writes it is running")
    if presence == "ended" and hparams.start_time is not None:
        return RunStatus("failed", "the process that wrote it has ended, and recorded no end")
    if presence == "ended":
        return RunStatus("unknown", "the process that wrote it has ended; the run records no end")
    return RunStatus(
        "unknown", "the run records no end, and its process cannot be looked for on this machine"
    )


def presence_of_writer(sessions: Sequence[Session], files: Sequence[ScannedFile]) -> Presence:
    """Returns whether the process still runs that wrote the newest event file of a run.

    Args:
        sessions: Of the run, in the order read.
        files: Its event files, in the order read. No session is known of files without records.
    """
    names = sessions[-1].files if sessions else [file.name for file in files]
    process = writing_process(names[-1]) if names else None
    return process.presence() if process is not None else "unknown"
