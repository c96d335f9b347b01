"""The marker of a checkpoint: a file with the run and the step it was saved in."""

import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from tbtrainer.event_file.names import is_remote
from tbtrainer.redaction import shown, without_url_credentials
from tbtrainer.run.claim import is_run_id

# The only file that tbtrainer adds to a checkpoint. `Trainer` writes all others.
RUN_FILE = "tensorboard_run.json"
# Limits for the content of a marker. A checkpoint may come from any source.
MOST_BYTES, _LONGEST_PATH, _MOST_CARDS = 262_144, 4_096, 256
# The step of an event is an int64, and the step after the last one is written too.
_LARGEST_STEP = 2**62


class BrokenMarker(ValueError):
    """A marker that cannot be read or has invalid content."""


@dataclass(frozen=True)
class SavedRun:
    """The content of a marker.

    Attributes:
        run_directory: Absolute path of the run directory when the checkpoint was saved, or its URL
            without credentials, because checkpoints are shared.
        relative_directory: Path of the run directory relative to the checkpoint, which stays right
            if both are moved; of a URL the same as `run_directory`.
        run_id: Id in the claim of the run directory; empty if the directory could not be claimed.
        step: Optimizer steps taken when the checkpoint was saved.
        cards: Digests of the texts that the run already shows, by tag.
        observers: States of observers, by the name of the observer: plain JSON. A marker that was
            read may have been written by any program, so each observer checks its own state.
    """

    run_directory: str
    relative_directory: str
    run_id: str
    step: int
    cards: Mapping[str, str] = field(default_factory=dict)
    observers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, run_directory: str, run_id: str, checkpoint: str, step: int, cards: Mapping[str, str]
    ) -> "SavedRun":
        """Makes the content of a marker. Does not access the run directory."""
        if is_remote(run_directory):
            url = without_url_credentials(run_directory)
            return cls(url, url, run_id, step, dict(cards))
        relative = os.path.relpath(run_directory, checkpoint)
        return cls(os.path.abspath(run_directory), relative, run_id, step, dict(cards))

    @classmethod
    def read(cls, checkpoint: str) -> "SavedRun | None":
        """Reads the marker of a checkpoint; `None` if it has none, as after the stock `Trainer`.

        Raises:
            BrokenMarker: The marker cannot be read or has invalid content.
        """
        try:
            with open(os.path.join(checkpoint, RUN_FILE), "rb", opener=_opened) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BrokenMarker("it is not a regular file")
                data = file.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BrokenMarker(shown(error)) from error
        return cls._parsed(data, step_of(checkpoint))

    @classmethod
    def _parsed(cls, data: bytes, named_step: int | None) -> "SavedRun":
        if len(data) > MOST_BYTES:
            raise BrokenMarker(f"it is longer than {MOST_BYTES} bytes")
        try:
            # Markers of earlier versions have no states of observers.
            values = {"observers": {}, **json.loads(data)}
            saved = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BrokenMarker(
                f"it is not the JSON of a marker ({type(error).__name__})"
            ) from error
        if not (_is_path(saved.run_directory) and _is_path(saved.relative_directory)):
            raise BrokenMarker("it has an invalid path")
        if saved.run_id != "" and not is_run_id(saved.run_id):
            raise BrokenMarker("it has an invalid run_id")
        if not is_step(saved.step) or named_step not in (None, saved.step):
            raise BrokenMarker("its step is not that of the checkpoint")
        if not _are_cards(saved.cards):
            raise BrokenMarker("its cards are not digests of texts")
        if not isinstance(saved.observers, dict):
            raise BrokenMarker("its states of observers have no names")
        return saved

    def to_bytes(self) -> bytes:
        """Returns the content of the marker file."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    def write(self, checkpoint: str) -> None:
        """Writes the marker into a checkpoint atomically."""
        path = os.path.join(checkpoint, RUN_FILE)
        # A checkpoint directory that was downloaded may contain a link or a pipe of this name.
        with suppress(FileNotFoundError):
            os.unlink(f"{path}.part")
        try:
            with open(f"{path}.part", "xb") as file:
                file.write(self.to_bytes())
            os.replace(f"{path}.part", path)
        except BaseException:
            with suppress(OSError):
                os.unlink(f"{path}.part")
            raise


def step_of(checkpoint: str) -> int | None:
    """Returns the step in the name of a checkpoint; `None` for other names."""
    found = re.fullmatch(r"checkpoint-(\d{1,18})", os.path.basename(os.path.abspath(checkpoint)))
    return int(found[1]) if found else None


def is_step(value: Any) -> bool:
    """Whether a value can be a number of optimizer steps."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_STEP


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_PATH or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # JSON can hold text that no path can.
        return False
    return True


def _are_cards(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_CARDS
        and all(isinstance(digest, str) for digest in value.values())
    )


def _opened(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)
