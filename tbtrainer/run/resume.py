"""Decides which run a resumed training continues, if any.

A checkpoint may have been downloaded, copied or edited, so its marker is not trusted. It only
chooses among the directories that this training may write to. No other directory is read or changed
because of what a marker contains.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from tbtrainer.event_file.names import is_remote
from tbtrainer.redaction import shown, without_url_credentials
from tbtrainer.run.claim import Claim, inside, is_place_of, read_claim, real_path, sibling
from tbtrainer.run.saved_run import BrokenMarker, SavedRun, step_of

# The search for numbered directories ends after this many in a row without a claim.
_GAP = 3
# How much earlier than the beginning of its training a checkpoint may seem to be saved: the clocks
# of the machine and of the file system may differ.
_CLOCK_SECONDS = 60.0
# What happens if no run is continued. Ends the message that gives the reason.
NEW_RUN = "The training continues from the checkpoint and begins a new run."


@dataclass(frozen=True)
class Training:
    """The directories of a training.

    Attributes:
        output_dir: Where it saves its checkpoints, absolute.
        requested: The run directory that the user asked for, absolute, or its URL; `None` for the
            default, a directory below `output_dir`.
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
    """The checkpoint that a training resumes from, and what its files say about its run.

    Attributes:
        path: The directory of the checkpoint.
        step: Optimizer steps taken when it was saved; `None` if unknown.
        saved: Its marker, or that of a checkpoint beside it; `None` if there is none.
        saved_at: When its `trainer_state.json` was written, in seconds since 1970; `None` if
            unknown.
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
        step: The last step whose events are kept.
        cards: Digests of the texts that the run shows, by tag.
        is_assumed: Whether no marker names the run, so that it was chosen by its claim alone.
    """

    run: FoundRun
    step: int
    cards: dict[str, str]
    is_assumed: bool = False


def run_to_continue(
    checkpoint: ResumedCheckpoint, found: Iterable[FoundRun], training: Training
) -> Continued | str:
    """Decides which run a resumed training continues. Reads no file.

    A run is continued if it lies in a directory of this training, its claim names this training's
    `output_dir`, and it has the id of the checkpoint's marker. If there is no marker, the choice is
    among the runs of this `output_dir` in which a training began before the checkpoint was saved:
    the one in which a training began last is continued.

    Args:
        checkpoint: The checkpoint.
        found: Claimed directories.
        training: The directories of this training, without links.

    Returns:
        The run, or a message that says why none is continued and what happens instead.
    """
    name = shown(checkpoint.path)
    if checkpoint.step is None:
        return (
            f"{name} has no readable tensorboard_run.json, and its name gives no step, so its run "
            f"cannot be found. {NEW_RUN}"
        )
    found = list(found)
    ours = [run for run in found if _is_ours(run, training)]
    saved = checkpoint.saved
    if saved is None:
        return _run_without_marker(checkpoint, checkpoint.step, ours)
    for run in ours:
        if saved.run_id and run.claim.run_id == saved.run_id:
            return Continued(run, checkpoint.step, dict(saved.cards))
    return _why_not_continued(name, saved, found, training)


def _run_without_marker(
    checkpoint: ResumedCheckpoint, step: int, ours: list[FoundRun]
) -> Continued | str:
    """Returns the run in which a training of this `output_dir` began last, or why there is none."""
    trained = [run for run in ours if _may_have_saved(run, checkpoint)]
    if not trained:
        return (
            f"{shown(checkpoint.path)} and the checkpoints beside it have no readable "
            f"tensorboard_run.json, and no run that may have saved it was found. {NEW_RUN}"
        )
    newest = max(trained, key=lambda run: run.claim.last_training or 0.0)
    return Continued(newest, step, {}, is_assumed=True)


def _why_not_continued(
    name: str, saved: SavedRun, found: list[FoundRun], training: Training
) -> str:
    """Returns the message for a checkpoint whose marker names no run of this training."""
    if not saved.run_id:
        return (
            f"The run that saved {name} had no claim of its directory, so it cannot be found. "
            f"{NEW_RUN}"
        )
    exists = any(run.claim.run_id == saved.run_id for run in found)
    if not exists and _lies_where(saved.run_directory, training):
        return (
            f"The run of {name} is not at {shown(saved.run_directory)} any more, or its file "
            f".tbtrainer-run is missing. {NEW_RUN} To continue the old run, put the directory back "
            "with its hidden files, and resume again."
        )
    return (
        f"{name} belongs to the run {shown(saved.run_directory)}, which is left as it is, because "
        f"this training has another output_dir or logging_dir. {NEW_RUN} To continue that run, "
        "resume with its output_dir and logging_dir."
    )


def _is_ours(run: FoundRun, training: Training) -> bool:
    return _lies_where(run.real, training) and run.claim.belongs_to(run.real, training.output_dir)


def _lies_where(directory: str, training: Training) -> bool:
    """Whether this training may write to a directory. Compares paths, and reads no file."""
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
    """Whether a training began in the run before the checkpoint was saved."""
    began = run.claim.first_training
    if began is None:
        return False
    return checkpoint.saved_at is None or checkpoint.saved_at >= began - _CLOCK_SECONDS


# ---- Reading the checkpoint and looking for runs ----


def run_of_checkpoint(checkpoint: str, training: Training) -> Continued | str:
    """Reads a checkpoint, looks for its run, and decides as `run_to_continue` does."""
    read = resumed_checkpoint(checkpoint)
    return run_to_continue(read, runs_of(training, read), without_links(training))


def resumed_checkpoint(checkpoint: str) -> ResumedCheckpoint:
    """Reads the marker of a checkpoint, or that of a checkpoint in the same folder.

    A process may have been killed before or while it wrote the marker. Then the marker of the
    nearest earlier checkpoint is used. If no earlier one has a marker, that of the nearest later
    one is used.
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
    """Returns the marker of a checkpoint; `None` if it has none, or a broken one."""
    with suppress(BrokenMarker):
        return SavedRun.read(checkpoint)
    return None


def _beside(checkpoint: str, step: int) -> Iterator[str]:
    """Yields the other checkpoints of a folder: earlier ones first, nearest first."""
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
    """Returns the claimed directories that this training may write to, the most likely first.

    Args:
        training: The directories of the training, which may contain links.
        checkpoint: The checkpoint. Its marker decides the order, and which directories below
            `output_dir` are looked at besides those in `runs`.
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
    """Returns the directories of a training as real paths."""
    requested = None if training.requested is None else real_path(training.requested)
    return Training(os.path.realpath(training.output_dir), requested)


def _places(training: Training, checkpoint: ResumedCheckpoint) -> Iterator[str]:
    """Yields the directories to look at. `runs_of` leaves out those that a link leads out of."""
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
    """Yields the requested directory, that of the marker, and the other numbered ones."""
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
