"""The claim of a run directory: a file that names the run and the training that own it."""

import errno
import hashlib
import json
import os
import posixpath
import re
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any

from tbtrainer.event_file.names import CLAIM, is_event_file, is_remote
from tbtrainer.event_file.storage import storage_of
from tbtrainer.redaction import shown

# How many numbered siblings are tried for a new run.
_SIBLINGS = 10_000
# How many numbered directories inside the requested one are tried, if no sibling can be made.
_INSIDE = 1_000
# After these errors the requested directory certainly holds no run: it is not a directory, or it
# was empty and could not be claimed. After any other error it may hold one.
_HOLDS_NO_RUN = frozenset(
    (
        *(errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG),
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    )
)
# A longer file is not a claim. A claim has less than a thousand bytes.
_MOST_BYTES = 65_536
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class RunDirectoryUnavailable(OSError):
    """The requested directory is in use, and none can be made beside it or inside it."""


@dataclass(frozen=True)
class Claim:
    """The content of a claim file: the run and the training that own a run directory.

    Paths are stored as hashes, because they are only compared, and may contain credentials.

    Attributes:
        run_id: Random name of the run, 32 hexadecimal digits.
        output_dir: Hash of the real path of the training's `output_dir`.
        directory: Hash of the run directory's real path when the claim was written.
        relative: Path of the run directory relative to `output_dir`; empty for a URL.
        first_training: When a training first began in the run, in seconds since 1970; `None` if
            the run has only evaluations.
        last_training: When a training last began or was resumed in the run, in seconds since 1970;
            `None` if the run has only evaluations.
    """

    run_id: str
    output_dir: str
    directory: str
    relative: str
    first_training: float | None = None
    last_training: float | None = None

    @classmethod
    def new(cls, directory: str, output_dir: str, trains: bool) -> "Claim":
        """Makes the claim of a new run.

        Args:
            directory: Real path of the run directory, or its URL.
            output_dir: Real path of the training's `output_dir`.
            trains: Whether a training begins in the run.
        """
        claim = cls(uuid.uuid4().hex, *_position(directory, output_dir))
        return claim.training(directory, output_dir) if trains else claim

    def training(self, directory: str, output_dir: str) -> "Claim":
        """Returns the claim renewed for a training that begins now, with today's paths."""
        now = time.time()
        output, place, relative = _position(directory, output_dir)
        return replace(
            self,
            output_dir=output,
            directory=place,
            relative=relative,
            first_training=self.first_training or now,
            last_training=now,
        )

    def belongs_to(self, directory: str, output_dir: str) -> bool:
        """Whether this is the claim of a training that saves to `output_dir`.

        That is so if the claim names this `output_dir`. It is also so if the run directory and
        `output_dir` were moved or copied together: the run directory has another path than in the
        claim, but the same path relative to `output_dir`.

        Args:
            directory: Real path of the run directory today, or its URL.
            output_dir: Real path of the training's `output_dir` today.
        """
        output, place, relative = _position(directory, output_dir)
        if output == self.output_dir:
            return True
        return bool(relative) and relative == self.relative and place != self.directory

    def is_at(self, directory: str) -> bool:
        """Whether the claim was written in a directory that has this real path, or this URL."""
        return self.directory == _hash(directory)

    @classmethod
    def parsed(cls, data: bytes) -> "Claim":
        """Reads the content of a claim file, which any program may have written.

        Raises:
            ValueError: It is not a valid claim.
        """
        try:
            values = json.loads(data)
            claim = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("the file is not a claim") from error
        texts = (claim.output_dir, claim.directory, claim.relative)
        times = (claim.first_training, claim.last_training)
        if not is_run_id(claim.run_id) or not all(isinstance(text, str) for text in texts):
            raise ValueError("the claim has an invalid run id or path")
        if not all(moment is None or _is_time(moment) for moment in times):
            raise ValueError("the claim has an invalid time")
        return claim

    def to_bytes(self) -> bytes:
        """Returns the content of the claim file."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def is_run_id(value: Any) -> bool:
    """Whether a value has the form of a run id."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def real_path(directory: str) -> str:
    """Returns the real path of a local directory; a URL unchanged."""
    return directory if is_remote(directory) else os.path.realpath(directory)


def claim_run_directory(
    path: str, output_dir: str = "", *, trains: bool = True
) -> tuple[str, Claim]:
    """Makes a directory that no other run uses, and claims it for a new run.

    Args:
        path: The requested directory. If it holds event files, or another run claims it first, the
            first free numbered sibling is used: `path-1`, `path-2`, and so on. If no sibling can be
            made, a numbered directory inside it is used: `path/path-1`.
        output_dir: Where the training saves its checkpoints.
        trains: Whether a training begins in the run.

    Returns:
        The directory, which exists, and the claim that was written to it.

    Raises:
        RunDirectoryUnavailable: The requested directory is in use, and no other can be made.
        Exception: The requested directory cannot be made or written to. Object stores raise
            exceptions of their own.
    """
    owner = os.path.realpath(output_dir)
    claim = _claimed(path, owner, trains)
    if claim is not None:
        return path, claim
    faults: list[Exception] = []
    for count, name in ((_SIBLINGS, sibling), (_INSIDE, inside)):
        try:
            for number in range(1, count):
                claim = _claimed(name(path, number), owner, trains)
                if claim is not None:
                    return name(path, number), claim
        except Exception as fault:  # Object stores have exceptions of their own.
            faults.append(fault)
    reasons = "; ".join(map(shown, faults)) or "all numbers are in use"
    raise RunDirectoryUnavailable(
        f"{shown(path)} is used by another run, and no directory for this run can be made beside "
        f"it or inside it ({reasons}). Set logging_dir to an unused directory, make this one or "
        "the one above it writable, or free disk space."
    )


def directory_without_claim(path: str, error: Exception) -> str:
    """Returns the directory for a run if the requested one could not be claimed.

    Args:
        path: The requested directory.
        error: Why it could not be claimed.

    Returns:
        The requested directory if it certainly holds no run, else a sibling with a random name.
    """
    if isinstance(error, OSError) and error.errno in _HOLDS_NO_RUN:
        return path
    return f"{path.rstrip('/')}-{uuid.uuid4().hex[:8]}"


def sibling(path: str, number: int) -> str:
    """Returns the numbered directory beside a run directory."""
    return f"{path.rstrip('/')}-{number}"


def inside(path: str, number: int) -> str:
    """Returns the numbered directory inside a run directory."""
    return f"{path.rstrip('/')}/{posixpath.basename(path.rstrip('/'))}-{number}"


def is_place_of(directory: str, requested: str) -> bool:
    """Whether a directory is the requested one, or a numbered one that tbtrainer makes for it."""
    directory, requested = directory.rstrip("/"), requested.rstrip("/")
    found = re.fullmatch(r"(.*)-([1-9]\d{0,3})", directory, re.DOTALL)
    if found is None or directory == requested:
        return directory == requested
    number = int(found[2])
    return directory in (sibling(requested, number), inside(requested, number))


def read_claim(directory: str) -> Claim | None:
    """Returns the claim of a directory; `None` if it is missing, unreadable or invalid."""
    try:
        return Claim.parsed(storage_of(directory).read(CLAIM, _MOST_BYTES))
    except Exception:  # Every object store has exceptions of its own.
        return None


def renew_claim(directory: str, run_id: str, output_dir: str) -> None:
    """Stores in the claim of a run that a training of `output_dir` began in it."""
    claim = read_claim(directory)
    if claim is not None and claim.run_id == run_id:
        renewed = claim.training(real_path(directory), os.path.realpath(output_dir))
        storage_of(directory).replace(CLAIM, renewed.to_bytes())


def _claimed(directory: str, output_dir: str, trains: bool) -> Claim | None:
    """Claims a directory; `None` if it is in use."""
    storage = storage_of(directory)
    storage.make()
    names = storage.names()
    if CLAIM in names or any(map(is_event_file, names)):
        return None
    claim = Claim.new(real_path(directory), output_dir, trains)
    return claim if storage.create(CLAIM, claim.to_bytes()) else None


def _position(directory: str, output_dir: str) -> tuple[str, str, str]:
    """Returns the hashes of both paths, and the run directory relative to `output_dir`."""
    relative = "" if is_remote(directory) else os.path.relpath(directory, output_dir)
    return _hash(output_dir), _hash(directory), relative


def _hash(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
