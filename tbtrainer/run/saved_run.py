"""The run of a checkpoint: where it is, and how far it had come."""

import json
import os
import re
from dataclasses import asdict, dataclass, replace

from tbtrainer.event_file.names import is_remote
from tbtrainer.redaction import HIDDEN, without_url_credentials
from tbtrainer.run.directory import claim_of

# The one file of ours in a checkpoint; all others are stock's, byte for byte.
RUN_FILE = "tensorboard_run.json"


@dataclass(frozen=True)
class SavedRun:
    """Where the run of a checkpoint is.

    Attributes:
        run_directory: The run directory, absolute, as it was when the checkpoint was saved; of a
            URL without its credentials, because checkpoints are given away.
        relative_directory: The same, seen from the checkpoint: it holds when both were moved.
        run_id: What the run wrote into its directory, to be told from another's in the same place;
            empty if it could not.
        step: Optimizer steps taken when the checkpoint was saved.
    """

    run_directory: str
    relative_directory: str
    run_id: str
    step: int

    @classmethod
    def of(cls, run_directory: str, checkpoint: str, step: int) -> "SavedRun":
        """Describes a run for a checkpoint that is about to be marked."""
        if is_remote(run_directory):
            shown = without_url_credentials(run_directory)
            return cls(shown, shown, claim_of(run_directory), step)
        relative = os.path.relpath(run_directory, checkpoint)
        return cls(os.path.abspath(run_directory), relative, claim_of(run_directory), step)

    @classmethod
    def read(cls, checkpoint: str) -> "SavedRun | None":
        """Reads the run of a checkpoint; `None` if it has none, as one saved by `Trainer`."""
        path = os.path.join(checkpoint, RUN_FILE)
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return cls(
            str(values["run_directory"]),
            str(values["relative_directory"]),
            str(values["run_id"]),
            int(values["step"]),
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: str) -> "SavedRun | None":
        """Finds the run of a checkpoint.

        A process may have been killed between a checkpoint's last file and this one. Its run is
        then that of the newest checkpoint beside it that has one.
        """
        saved = cls.read(checkpoint)
        if saved is not None:
            return saved
        folder, name = os.path.split(os.path.abspath(checkpoint))
        step = _step_of(name)
        beside = [other for other in os.listdir(folder) if 0 <= _step_of(other) < step]
        for other in sorted(beside, key=_step_of, reverse=True):
            saved = cls.read(os.path.join(folder, other))
            if saved is not None:
                return replace(saved, step=step)
        return None

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
            url = _with_credentials(self.run_directory, requested)
            return url if url is not None and self._is_in(url) else None
        beside = os.path.normpath(os.path.join(checkpoint, self.relative_directory))
        for directory in (beside, self.run_directory):
            if os.path.isdir(directory) and self._is_in(directory):
                return directory
        return None

    def _is_in(self, directory: str) -> bool:
        """Whether a directory is this run's, and not another's in the same place."""
        return not self.run_id or claim_of(directory) == self.run_id


def _step_of(name: str) -> int:
    """The step in the name of a checkpoint's directory, -1 if it is no such name."""
    found = re.fullmatch(r"checkpoint-(\d+)", name)
    return int(found.group(1)) if found else -1


def _with_credentials(shown: str, requested: str) -> str | None:
    """Puts the credentials of one URL into the place of another's; `None` if they are missing."""
    if HIDDEN not in shown:
        return shown
    # A sibling's URL goes on where the requested one ends.
    start = without_url_credentials(requested)
    return requested + shown.removeprefix(start) if shown.startswith(start) else None
