"""The run of a checkpoint: where it is, and how far it had come."""

import json
import os
from dataclasses import asdict, dataclass

# The one file of ours in a checkpoint; all others are stock's, byte for byte.
RUN_FILE = "tensorboard_run.json"


@dataclass(frozen=True)
class SavedRun:
    """Where the run of a checkpoint is.

    Attributes:
        run_directory: The run directory, absolute, as it was when the checkpoint was saved.
        relative_directory: The same, seen from the checkpoint: it holds when both were moved.
        step: Optimizer steps taken when the checkpoint was saved.
    """

    run_directory: str
    relative_directory: str
    step: int

    @classmethod
    def of(cls, run_directory: str, checkpoint: str, step: int) -> "SavedRun":
        """Describes a run for a checkpoint that is about to be marked."""
        if "://" in run_directory:
            return cls(run_directory, run_directory, step)
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

    def directory_now(self, checkpoint: str) -> str | None:
        """Returns the run directory that exists today, or `None` if it is gone."""
        if "://" in self.run_directory:
            return self.run_directory
        beside = os.path.normpath(os.path.join(checkpoint, self.relative_directory))
        for directory in (beside, self.run_directory):
            if os.path.isdir(directory):
                return directory
        return None
