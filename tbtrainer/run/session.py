"""The runs of one trainer, from its building to its last evaluation."""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import asdict

from tbtrainer.event_file.names import is_remote
from tbtrainer.isolation import Isolation
from tbtrainer.redaction import redacted_text
from tbtrainer.run.directory import check_run_directory, claim_run_directory, default_run_directory
from tbtrainer.run.rewind import rewind
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.silent_writer import SilentWriter
from tbtrainer.run.summary_writer import RunWriter

logger = logging.getLogger(__name__)


class RunSession:
    """One run directory after another, and the writer of the present one.

    On ranks that do not write, everything here does nothing.

    Args:
        logging_dir: Run directory as asked for; `None` for the default below `output_dir`.
        output_dir: Where the trainer saves its checkpoints.
        writes: Whether this rank writes: true on world rank zero alone.
        isolation: What happens to an error of a writer's `add_*` methods.
        private: Whether other users may not read the event files.
        fsync: Whether a checkpoint also forces the event files to the disk.
    """

    def __init__(
        self,
        logging_dir: str | None,
        output_dir: str,
        *,
        writes: bool,
        isolation: Isolation | None = None,
        private: bool = False,
        fsync: bool = False,
    ) -> None:
        self._requested = default_run_directory(logging_dir, output_dir)
        self._is_named = bool(logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR"))
        self._output_dir = output_dir
        self._writes = writes
        self._isolation = isolation
        self._file_mode = 0o600 if private else 0o666
        self._fsync = fsync
        self._writer: RunWriter | SilentWriter | None = None
        self._has_trained = False

    def check(self) -> None:
        """Raises a `ValueError` if the directory that somebody named cannot be written to.

        The default lies below the trainer's output directory, which need not be writable by who
        evaluates alone.
        """
        if self._is_named:
            check_run_directory(self._requested)

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The writer of the present run. The first use claims the directory."""
        if self._writer is None:
            self._writer = self._fresh(self._requested)
        return self._writer

    def begin_training(self, checkpoint: str | None, resume: str, trial_name: str | None) -> None:
        """Chooses the run of a training that is about to begin.

        Args:
            checkpoint: The checkpoint it resumes from, if it does.
            resume: `"auto"` to go on in the checkpoint's run, `"new"` for another.
            trial_name: Name of the hyper-parameter-search trial, if it is one.
        """
        if not self._writes:
            return
        followed = self._run_of(checkpoint) if checkpoint is not None and resume == "auto" else None
        if followed is not None:
            self._continue(*followed)
        elif trial_name is not None:
            self._leave()
            self._writer = self._fresh(os.path.join(self._requested, trial_name))
        elif self._has_trained:
            # Another training counts its steps from zero: its own run, beside the first.
            self._leave()
        self._has_trained = True

    def write(self, records: Iterable[tuple[str, float | str]], step: int) -> None:
        """Writes numbers as scalars and text as text, without its secrets, at `step`."""
        if not self._writes:
            return
        for tag, value in records:
            if isinstance(value, str):
                self.writer.add_text(tag, redacted_text(value), step)
            else:
                self.writer.add_scalar(tag, value, step)

    def write_counters(self, step: int) -> None:
        """Writes, as scalars, how many records were written, wait, or were dropped so far."""
        for name, count in asdict(self.writer.counters).items():
            self.writer.add_scalar(f"tbtrainer/records_{name}", count, step)

    def flush(self) -> None:
        """Hands what was written to the operating system, waiting 50 ms at the most."""
        if self._writer is not None:
            self._writer.flush()

    def settle(self) -> None:
        """The same, waiting up to a second: before a checkpoint is saved, and when ended."""
        if isinstance(self._writer, RunWriter):
            self._writer.finish()

    def mark_checkpoint(self, checkpoint: str, step: int) -> None:
        """Stores the run and the step in a checkpoint, from which a resumed training goes on."""
        if self._writes:
            SavedRun.of(str(self.writer.log_dir), checkpoint, step).write(checkpoint)

    def release(self) -> None:
        """Closes the event file until the next record; tools that follow the run do not notice."""
        if self._writer is not None:
            self._writer.release()

    def rest(self) -> None:
        """Closes the event file, and ends the run for tools that follow it.

        What is written later goes to the same run directory.
        """
        if self._writer is not None:
            self._writer.close()

    def _fresh(self, directory: str) -> RunWriter | SilentWriter:
        if not self._writes:
            return SilentWriter()
        try:
            claimed = claim_run_directory(directory)
        except Exception as error:  # Every object store has exceptions of its own.
            # The event file's writer will say so, keep the records and try again.
            logger.debug("%s is not claimed: %s", redacted_text(directory), error)
            claimed = directory
        if claimed != directory:
            logger.warning(
                "%s holds an earlier run; this one is written to %s.",
                redacted_text(directory),
                redacted_text(claimed),
            )
        return self._opened(claimed)

    def _opened(self, directory: str, purge_step: int | None = None) -> RunWriter:
        return RunWriter(
            directory,
            purge_step,
            file_mode=self._file_mode,
            sync=self._fsync,
            isolation=self._isolation,
        )

    def _leave(self) -> None:
        self.rest()
        self._writer = None

    def _run_of(self, checkpoint: str) -> tuple[str, int] | None:
        """Directory and step of the checkpoint's run, or `None`, with the reason said."""
        saved = SavedRun.of_checkpoint(checkpoint)
        if saved is None:
            logger.warning("%s was saved without a run: a new one begins.", checkpoint)
            return None
        directory = saved.directory_now(checkpoint, self._requested)
        if directory is None:
            logger.warning(
                "The run of %s, %s, is gone or cannot be reached: a new one begins.",
                checkpoint,
                saved.run_directory,
            )
            return None
        if not self._is_ours(directory, checkpoint):
            logger.warning(
                "%s belongs to the run %s, which is left as it is: this training has been given "
                "another place, and begins a run of its own.",
                checkpoint,
                redacted_text(directory),
            )
            return None
        logger.info("The run %s goes on after step %d.", redacted_text(directory), saved.step)
        return directory, saved.step

    def _is_ours(self, directory: str, checkpoint: str) -> bool:
        """Whether a checkpoint's run lies where this training's would: not a branch of another."""
        if self._is_named:
            requested = self._requested.rstrip("/")
            if not is_remote(directory):
                directory, requested = os.path.realpath(directory), os.path.realpath(requested)
            return (
                re.fullmatch(re.escape(requested) + r"(-\d+)?", directory.rstrip("/")) is not None
            )
        here = os.path.realpath(self._output_dir)
        places = [os.path.realpath(place) for place in (directory, checkpoint)]
        return any(os.path.commonpath([here, place]) == here for place in places)

    def _continue(self, directory: str, step: int) -> None:
        self._leave()
        try:
            rewind(directory, step)
        except Exception as error:
            # Still the right place: the next resume takes out what stays now.
            logger.warning(
                "Events after step %d could not be taken out of %s (%s): until the training is "
                "resumed once more, they are shown beside what it logs now.",
                step,
                redacted_text(directory),
                redacted_text(str(error)),
            )
        self._writer = self._opened(directory, purge_step=step + 1)
