"""The runs of one trainer, from its building to its last evaluation."""

import logging
import os
from collections.abc import Iterable
from dataclasses import asdict

from tbtrainer.isolation import Isolation
from tbtrainer.redaction import redacted_text
from tbtrainer.run.directory import check_run_directory, claim_run_directory, default_run_directory
from tbtrainer.run.rewind import rewind
from tbtrainer.run.saved_run import SavedRun
from tbtrainer.run.writer import RunWriter, SilentWriter

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
        self._writes = writes
        self._isolation = isolation
        self._file_mode = 0o600 if private else 0o666
        self._fsync = fsync
        self._writer: RunWriter | SilentWriter | None = None
        self._has_trained = False

    def check(self) -> None:
        """Raises a `ValueError` that says what is wrong if the directory cannot be written to."""
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

    def rest(self) -> None:
        """Closes the event file. What is written later goes on in the same run."""
        if self._writer is not None:
            self._writer.close()

    def _fresh(self, directory: str) -> RunWriter | SilentWriter:
        if not self._writes:
            return SilentWriter()
        try:
            claimed = claim_run_directory(directory)
        except OSError:
            # The event file's writer will say so, keep the records and try again.
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
        saved = SavedRun.read(checkpoint)
        directory = saved.directory_now(checkpoint, self._requested) if saved is not None else None
        if saved is None:
            logger.warning("%s was saved without a run: a new one begins.", checkpoint)
        elif directory is None:
            logger.warning(
                "The run of %s, %s, is gone or cannot be reached: a new one begins.",
                checkpoint,
                saved.run_directory,
            )
        else:
            return directory, saved.step
        return None

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
