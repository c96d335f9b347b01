"""The claim of a run directory: the file that says which run, of which training, owns it."""

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

# Numbered siblings that are tried for a fresh run.
_SIBLINGS = 10_000
# Numbered directories inside of the one asked for, where it can have no siblings.
_INSIDE = 1_000
# Errors after which the directory asked for holds no run: it is no directory, or it was found empty
# and could not be claimed. After all others, such as those of object stores, it may hold one.
_HOLDS_NO_RUN = frozenset(
    (
        *(errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG),
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    )
)
# Far more than a claim has; a longer file is none.
_MOST_BYTES = 65_536
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class RunDirectoryUnavailable(OSError):
    """The directory asked for is in use, and no other can be made beside it or inside it."""


@dataclass(frozen=True)
class Claim:
    """Owner of a run directory, as its claim file has it.

    Paths are kept as hashes: they are compared only, and may hold credentials.

    Attributes:
        run_id: Random name of the run, 32 hexadecimal digits.
        output_dir: Hash of the real path of the training's `output_dir`.
        directory: Hash of the run directory's real path when the claim was written.
        relative: The run directory as seen from `output_dir`; empty for a URL.
        first_training: When a training first began in the run, in seconds since 1970; `None` if
            the run has only evaluations.
        last_training: When the latest one began or was resumed.
    """

    run_id: str
    output_dir: str
    directory: str
    relative: str
    first_training: float | None = None
    last_training: float | None = None

    @classmethod
    def new(cls, directory: str, output_dir: str, trains: bool) -> "Claim":
        """Makes a claim of a run of its own.

        Args:
            directory: Real path of the run directory, or its URL.
            output_dir: Real path of the training's `output_dir`.
            trains: Whether a training begins in the run.
        """
        claim = cls(uuid.uuid4().hex, *_position(directory, output_dir))
        return claim.training(directory, output_dir) if trains else claim

    def training(self, directory: str, output_dir: str) -> "Claim":
        """Returns the claim after a training began in the run, which may have been moved."""
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
        """Whether a run, where it lies today, is that of the training that saves to `output_dir`.

        It is if the claim names this `output_dir`. It also is if run and `output_dir` were both
        moved or copied and lie to each other as before. A run that was not moved belongs to the
        `output_dir` of its claim alone.
        """
        output, place, relative = _position(directory, output_dir)
        if output == self.output_dir:
            return True
        return bool(relative) and relative == self.relative and place != self.directory

    @classmethod
    def parsed(cls, data: bytes) -> "Claim":
        """Reads a claim that anybody may have written.

        Raises:
            ValueError: It is no claim.
        """
        try:
            values = json.loads(data)
            claim = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("the file is not a claim") from error
        texts = (claim.output_dir, claim.directory, claim.relative)
        times = (claim.first_training, claim.last_training)
        if not is_run_id(claim.run_id) or not all(isinstance(text, str) for text in texts):
            raise ValueError("the claim holds no run")
        if not all(moment is None or _is_time(moment) for moment in times):
            raise ValueError("the claim holds a time that is no time")
        return claim

    def to_bytes(self) -> bytes:
        """Returns the content of the claim file."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def is_run_id(value: Any) -> bool:
    """Whether a value is the id of a run."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def real_path(directory: str) -> str:
    """Returns a local directory without links; a URL as it is."""
    return directory if is_remote(directory) else os.path.realpath(directory)


def claim_run_directory(
    path: str, output_dir: str = "", *, trains: bool = True
) -> tuple[str, Claim]:
    """Makes a directory that no other run is in, and claims it for a fresh run.

    Args:
        path: The directory asked for. If it holds events, or another run claims it at the same
            moment, the next numbered sibling that is free is taken: `path-1`, `path-2`, and so on.
            If no sibling can be made, a numbered directory inside of it: `path/path-1`.
        output_dir: Where the training saves its checkpoints.
        trains: Whether a training begins in the run.

    Returns:
        The directory, which exists, and the claim that was written to it.

    Raises:
        RunDirectoryUnavailable: The directory is in use, and no other can be made.
        Exception: The directory asked for cannot be made or written to. Object stores have
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
    raise RunDirectoryUnavailable(
        f"{path} is used by another run, and no directory for this run can be made beside it or "
        f"inside it ({'; '.join(map(str, faults)) or 'all numbers are taken'}). Name another "
        "logging_dir, make one of them writable, or make room."
    )


def directory_without_claim(path: str, error: Exception) -> str:
    """Returns where a run goes whose directory could not be claimed.

    Args:
        path: The directory asked for.
        error: Why it could not be claimed.

    Returns:
        The directory asked for if it holds no run. If it may hold one, a name beside it that no
        other run has.
    """
    if isinstance(error, OSError) and error.errno in _HOLDS_NO_RUN:
        return path
    return f"{path.rstrip('/')}-{uuid.uuid4().hex[:8]}"


def sibling(path: str, number: int) -> str:
    """Returns the numbered directory beside a run directory."""
    return f"{path.rstrip('/')}-{number}"


def inside(path: str, number: int) -> str:
    """Returns the numbered directory inside of a run directory that can have no siblings."""
    return f"{path.rstrip('/')}/{posixpath.basename(path.rstrip('/'))}-{number}"


def is_place_of(directory: str, requested: str) -> bool:
    """Whether a directory is the one asked for, or a numbered one that tbtrainer makes of it."""
    directory, requested = directory.rstrip("/"), requested.rstrip("/")
    found = re.fullmatch(r"(.*)-([1-9]\d{0,3})", directory, re.DOTALL)
    if found is None or directory == requested:
        return directory == requested
    number = int(found[2])
    return directory in (sibling(requested, number), inside(requested, number))


def read_claim(directory: str) -> Claim | None:
    """Reads the claim of a directory; `None` if it has none that is valid."""
    try:
        return Claim.parsed(storage_of(directory).read(CLAIM, _MOST_BYTES))
    except Exception:  # Missing, or out of reach. Object stores have exceptions of their own.
        return None


def renew_claim(directory: str, run_id: str, output_dir: str) -> None:
    """Notes in the claim of a run that a training of `output_dir` began in it."""
    claim = read_claim(directory)
    if claim is not None and claim.run_id == run_id:
        renewed = claim.training(real_path(directory), os.path.realpath(output_dir))
        storage_of(directory).replace(CLAIM, renewed.to_bytes())


def _claimed(directory: str, output_dir: str, trains: bool) -> Claim | None:
    storage = storage_of(directory)
    storage.make()
    names = storage.names()
    if CLAIM in names or any(map(is_event_file, names)):
        return None
    claim = Claim.new(real_path(directory), output_dir, trains)
    return claim if storage.create(CLAIM, claim.to_bytes()) else None


def _position(directory: str, output_dir: str) -> tuple[str, str, str]:
    """Hash of `output_dir`, hash of the run directory, and how the one lies to the other."""
    relative = "" if is_remote(directory) else os.path.relpath(directory, output_dir)
    return _hash(output_dir), _hash(directory), relative


def _hash(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
