"""The marker of a checkpoint: which run it belongs to, and how far that had come."""

import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from tbtrainer.event_file.names import is_remote
from tbtrainer.redaction import without_url_credentials
from tbtrainer.run.claim import is_run_id

# The one file of ours in a checkpoint; all others are stock's, byte for byte.
RUN_FILE = "tensorboard_run.json"
# What a marker may hold at most. A checkpoint may come from anybody.
_MOST_BYTES, _LONGEST_PATH, _MOST_CARDS = 65_536, 4_096, 256
# Events hold their step in 64 bits with a sign, and the step after it is written, too.
_LARGEST_STEP = 2**62


class BrokenMarker(ValueError):
    """A marker that does not hold what a marker holds."""


@dataclass(frozen=True)
class SavedRun:
    """The run of a checkpoint.

    Attributes:
        run_directory: The run directory, absolute, as it was when the checkpoint was saved; of a
            URL without its credentials, because checkpoints are given away.
        relative_directory: The same, seen from the checkpoint: it holds when both were moved.
        run_id: Id in the claim of the run directory; empty if the directory could not be claimed.
        step: Optimizer steps taken when the checkpoint was saved.
        cards: Digests of the texts that the run shows, by tag.
    """

    run_directory: str
    relative_directory: str
    run_id: str
    step: int
    cards: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, run_directory: str, run_id: str, checkpoint: str, step: int, cards: Mapping[str, str]
    ) -> "SavedRun":
        """Describes a run for a checkpoint, without looking at the run directory."""
        if is_remote(run_directory):
            shown = without_url_credentials(run_directory)
            return cls(shown, shown, run_id, step, dict(cards))
        relative = os.path.relpath(run_directory, checkpoint)
        return cls(os.path.abspath(run_directory), relative, run_id, step, dict(cards))

    @classmethod
    def read(cls, checkpoint: str) -> "SavedRun | None":
        """Reads the marker of a checkpoint; `None` if it has none, as one saved by `Trainer`.

        Raises:
            BrokenMarker: Its marker cannot be read, or holds what no marker holds.
        """
        try:
            with open(os.path.join(checkpoint, RUN_FILE), "rb", opener=_opened) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BrokenMarker("it is not a regular file")
                data = file.read(_MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BrokenMarker(str(error)) from error
        return cls._parsed(data, step_of(checkpoint))

    @classmethod
    def _parsed(cls, data: bytes, named_step: int | None) -> "SavedRun":
        if len(data) > _MOST_BYTES:
            raise BrokenMarker(f"it is longer than {_MOST_BYTES} bytes")
        try:
            values = json.loads(data)
            saved = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BrokenMarker(
                f"it is not the JSON of a marker ({type(error).__name__})"
            ) from error
        if not (_is_path(saved.run_directory) and _is_path(saved.relative_directory)):
            raise BrokenMarker("a directory in it is no path")
        if saved.run_id != "" and not is_run_id(saved.run_id):
            raise BrokenMarker("run_id is no id of a run")
        if not is_step(saved.step) or named_step not in (None, saved.step):
            raise BrokenMarker("step is not the step of this checkpoint")
        if not _are_cards(saved.cards):
            raise BrokenMarker("cards are no digests")
        return saved

    def write(self, checkpoint: str) -> None:
        """Writes the marker into the checkpoint, whole or not at all."""
        path = os.path.join(checkpoint, RUN_FILE)
        try:
            with open(f"{path}.part", "w", encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=2)
                file.write("\n")
            os.replace(f"{path}.part", path)
        except BaseException:
            with suppress(OSError):
                os.unlink(f"{path}.part")
            raise


def step_of(checkpoint: str) -> int | None:
    """Returns the step in the name of a checkpoint, `None` if it has another name."""
    found = re.fullmatch(r"checkpoint-(\d{1,18})", os.path.basename(os.path.abspath(checkpoint)))
    return int(found[1]) if found else None


def is_step(value: Any) -> bool:
    """Whether a value is a number of optimizer steps."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_STEP


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_PATH and "\0" not in value


def _are_cards(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_CARDS
        and all(isinstance(digest, str) for digest in value.values())
    )


def _opened(path: str, flags: int) -> int:
    # The opening of a pipe would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)
