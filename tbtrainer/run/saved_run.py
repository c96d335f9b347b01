"""The run of a checkpoint: where it is, and how far it had come."""

import json
import os
from dataclasses import asdict, dataclass

from tbtrainer.redaction import HIDDEN, redacted_text
from tbtrainer.run.names import is_remote

# The one file of ours in a checkpoint; all others are stock's, byte for byte.
RUN_FILE = "tensorboard_run.json"


@dataclass(frozen=True)
class SavedRun:
    """Where the run of a checkpoint is.

    Attributes:
        run_directory: The run directory, absolute, as it was when the checkpoint was saved; of a
            URL without its credentials, because checkpoints are given away.
        relative_directory: The same, seen from the checkpoint: it holds when both were moved.
        step: Optimizer steps taken when the checkpoint was saved.
    """

    run_directory: str
    relative_directory: str
    step: int

    @classmethod
    def of(cls, run_directory: str, checkpoint: str, step: int) -> "SavedRun":
        """Describes a run for a checkpoint that is about to be marked."""
        if is_remote(run_directory):
            shown = redacted_text(run_directory)
            return cls(shown, shown, step)
        relative = os.path.relpath(run_directory, checkpoint)
        return cls(os.path.abspath(run_directory), relative, step)

    @classmethod
    def read(cls, checkpoint: str) -> "SavedRun | None":
        """Reads the run of a checkpoint; `None` if it has none, as one saved by `Trainer`."""
        path = os.path.join(checkpoint, RUN_FILE)
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return cls(
            str(values["run_directory"]), str(values["relative_directory"]), int(values["step"])
        )

    def write(self, checkpoint: str) -> None:
        """Writes the file into the checkpoint, whole or not at all."""
        path = os.path.join(checkpoint, RUN_FILE)
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
        os.replace(f"{path}.part", path)

    def directory_now(self, checkpoint: str, requested: str) -> str | None:
        """Returns the run directory that exists today, or `None` if it is gone.

        Args:
            checkpoint: Where the checkpoint is now.
            requested: The run directory of a fresh run, whose URL may have the credentials.
        """
        if is_remote(self.run_directory):
            return _with_credentials(self.run_directory, requested)
        beside = os.path.normpath(os.path.join(checkpoint, self.relative_directory))
        for directory in (beside, self.run_directory):
            if os.path.isdir(directory):
                return directory
        return None


def _with_credentials(shown: str, requested: str) -> str | None:
    """Puts the credentials of one URL into the place of another's; `None` if they are missing."""
    if HIDDEN not in shown:
        return shown
    # A sibling's URL goes on where the requested one ends.
    start = redacted_text(requested)
    return requested + shown.removeprefix(start) if shown.startswith(start) else None
