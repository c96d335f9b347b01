"""Which run a resumed training continues, if any.

A checkpoint may have been downloaded, copied or edited, so its marker is data from somebody else.
Nothing in it makes tbtrainer look at, write to or rewrite a directory that this training was not
given. The marker only chooses among directories that are this training's.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from tbtrainer.event_file.names import is_remote
from tbtrainer.redaction import redacted_text, without_url_credentials
from tbtrainer.run.claim import Claim, inside, is_place_of, read_claim, real_path, sibling
from tbtrainer.run.saved_run import BrokenMarker, SavedRun, step_of

# Numbered directories without a claim, after which no more are looked for.
_GAP = 3
# A checkpoint saved this much before a training began was not saved by it; clocks may differ.
_CLOCK_SECONDS = 60.0
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class Training:
    """Where a training was told to write.

    Attributes:
        output_dir: Where it saves its checkpoints, absolute.
        requested: The run directory that was asked for, absolute, or its URL; `None` if none was,
            and runs go to `output_dir`.
    """

    output_dir: str
    requested: str | None


@dataclass(frozen=True)
class FoundRun:
    """A claimed directory that may be the run of a training.

    Attributes:
        directory: Its path, or its URL with credentials.
        real: Its path without links, or its URL.
        claim: Its claim.
    """

    directory: str
    real: str
    claim: Claim


@dataclass(frozen=True)
class ResumedCheckpoint:
    """What is known of the checkpoint that a training resumes from.

    Attributes:
        path: Where it is.
        step: Optimizer steps taken when it was saved; `None` if unknown.
        saved: Its marker, or that of a checkpoint beside it; `None` if there is none.
        saved_at: When its training state was written, in seconds since 1970; `None` if unknown.
    """

    path: str
    step: int | None
    saved: SavedRun | None
    saved_at: float | None


@dataclass(frozen=True)
class Continued:
    """A run to continue.

    Attributes:
        run: The run.
        step: The last step that stays.
        cards: Digests of the texts it shows, by tag.
        is_assumed: Whether no marker names the run.
    """

    run: FoundRun
    step: int
    cards: dict[str, str]
    is_assumed: bool = False


def run_to_continue(
    checkpoint: ResumedCheckpoint, found: Iterable[FoundRun], training: Training
) -> Continued | str:
    """Decides which run a resumed training continues. Touches no file.

    A run is continued if it lies where this training writes, its claim names this training's
    `output_dir`, and its id is that of the checkpoint's marker. Without a marker it is the run in
    which a training of this `output_dir` last began, before the checkpoint was saved.

    Args:
        checkpoint: The checkpoint.
        found: Claimed directories.
        training: Where this training writes, its paths without links.

    Returns:
        The run, or the reason why a new one begins, as a sentence that names the checkpoint.
    """
    name = shown(checkpoint.path)
    if checkpoint.step is None:
        return f"{name} was saved without a run: a new one begins."
    found = list(found)
    ours = [run for run in found if _is_ours(run, training)]
    saved = checkpoint.saved
    if saved is None:
        trained = [run for run in ours if _may_have_saved(run, checkpoint)]
        if not trained:
            return f"{name} was saved without a run: a new one begins."
        newest = max(trained, key=lambda run: run.claim.last_training or 0.0)
        return Continued(newest, checkpoint.step, {}, is_assumed=True)
    if not saved.run_id:
        return f"{name} was saved while its run directory had no claim: a new run begins."
    for run in ours:
        if run.claim.run_id == saved.run_id:
            return Continued(run, checkpoint.step, dict(saved.cards))
    exists = any(run.claim.run_id == saved.run_id for run in found)
    if not exists and _lies_where(saved.run_directory, training):
        return (
            f"The run of {name}, {shown(saved.run_directory)}, is gone, or its claim is: "
            "a new one begins."
        )
    return (
        f"{name} belongs to the run {shown(saved.run_directory)}, which is left as it is: this "
        "training has another output_dir or logging_dir, and begins a run of its own."
    )


def _is_ours(run: FoundRun, training: Training) -> bool:
    return _lies_where(run.real, training) and run.claim.belongs_to(run.real, training.output_dir)


def _lies_where(directory: str, training: Training) -> bool:
    """Whether a directory is one that this training may write to. Compares text only."""
    if training.requested is not None:
        if is_remote(directory) or is_remote(training.requested):
            directory = without_url_credentials(directory)
            return is_place_of(directory, without_url_credentials(training.requested))
        return is_place_of(os.path.normpath(directory), training.requested)
    return not is_remote(directory) and _is_below(directory, training.output_dir)


def _is_below(directory: str, output_dir: str) -> bool:
    directory = os.path.normpath(directory)
    return os.path.isabs(directory) and directory.startswith(output_dir.rstrip("/") + "/")


def _may_have_saved(run: FoundRun, checkpoint: ResumedCheckpoint) -> bool:
    began = run.claim.first_training
    if began is None:
        return False
    return checkpoint.saved_at is None or checkpoint.saved_at >= began - _CLOCK_SECONDS


# ---- What the decision needs to know ----


def run_of_checkpoint(checkpoint: str, training: Training) -> Continued | str:
    """Reads a checkpoint, looks for its run, and decides; see `run_to_continue`."""
    read = resumed_checkpoint(checkpoint)
    return run_to_continue(read, runs_of(training, read), without_links(training))


def resumed_checkpoint(checkpoint: str) -> ResumedCheckpoint:
    """Reads what a checkpoint, or one beside it, says of its run.

    A process may have been killed before it wrote the marker, or while it did. The run is then that
    of the nearest checkpoint beside it, earlier ones first.
    """
    step = step_of(checkpoint)
    saved = _marker(checkpoint)
    if saved is None and step is not None:
        markers = filter(None, map(_marker, _beside(checkpoint, step)))
        saved = next((marker for marker in markers if marker.run_id), None)
    elif saved is not None:
        step = saved.step
    saved_at = None
    with suppress(OSError):
        saved_at = os.stat(os.path.join(checkpoint, "trainer_state.json")).st_mtime
    return ResumedCheckpoint(checkpoint, step, saved, saved_at)


def _marker(checkpoint: str) -> SavedRun | None:
    with suppress(BrokenMarker):
        return SavedRun.read(checkpoint)
    return None


def _beside(checkpoint: str, step: int) -> Iterator[str]:
    """Checkpoints beside one: the nearest earlier one first, then the nearest later one."""
    folder = os.path.dirname(os.path.abspath(checkpoint))
    try:
        names = os.listdir(folder)
    except OSError:
        return
    others = [(other, name) for name in names if (other := step_of(name)) is not None]
    earlier = sorted((pair for pair in others if pair[0] < step), reverse=True)
    for _, name in [*earlier, *sorted(pair for pair in others if pair[0] > step)]:
        yield os.path.join(folder, name)


def runs_of(training: Training, checkpoint: ResumedCheckpoint) -> list[FoundRun]:
    """Looks for the claimed directories that this training may write to, the likeliest first.

    Args:
        training: Where the training writes, as it was told.
        checkpoint: What the checkpoint says: it only chooses the order, and which directories below
            `output_dir` are looked at.
    """
    real = without_links(training)
    found: dict[str, FoundRun] = {}
    wanted = checkpoint.saved.run_id if checkpoint.saved is not None else None
    for directory in _places(training, checkpoint):
        place = real_path(directory)
        if place in found or not _lies_where(place, real):
            continue
        claim = read_claim(directory)
        if claim is not None:
            found[place] = FoundRun(directory, place, claim)
            if claim.run_id == wanted:
                break
    return list(found.values())


def without_links(training: Training) -> Training:
    """Returns the places of a training as real paths."""
    requested = None if training.requested is None else real_path(training.requested)
    return Training(os.path.realpath(training.output_dir), requested)


def _places(training: Training, checkpoint: ResumedCheckpoint) -> Iterator[str]:
    """Directories to look at. None lies elsewhere, unless a link leads there."""
    if training.requested is not None:
        yield from _numbered(training.requested, checkpoint.saved)
        return
    if checkpoint.saved is not None:
        here = os.path.abspath(checkpoint.path)
        beside = os.path.normpath(os.path.join(here, checkpoint.saved.relative_directory))
        for directory in (beside, os.path.normpath(checkpoint.saved.run_directory)):
            if _is_below(directory, training.output_dir):
                yield directory
    runs = os.path.join(training.output_dir, "runs")
    with suppress(OSError):
        for name in sorted(os.listdir(runs), reverse=True):
            yield os.path.join(runs, name)


def _numbered(requested: str, saved: SavedRun | None) -> Iterator[str]:
    """The directory asked for and the numbered ones made of it; that of the marker first."""
    yield requested
    start = without_url_credentials(requested)
    if saved is not None and is_place_of(saved.run_directory, start):
        yield requested.rstrip("/") + saved.run_directory.removeprefix(start.rstrip("/"))
    for name in (sibling, inside):
        number = missing = 0
        while missing < _GAP:
            number += 1
            missing = 0 if read_claim(name(requested, number)) is not None else missing + 1
            yield name(requested, number)


def shown(path: str) -> str:
    """Returns a path as a message may show it: short, printable and without secrets."""
    text = redacted_text(path)
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}…"
    return text if text.isprintable() else json.dumps(text)
