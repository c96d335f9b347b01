"""The runs of one trainer, from its building to its last evaluation."""

import logging
import os

from tbtrainer.isolation import Isolation
from tbtrainer.records import Records
from tbtrainer.redaction import redacted_text
from tbtrainer.run.claim import (
    Claim,
    RunDirectoryUnavailable,
    claim_run_directory,
    directory_without_claim,
    renew_claim,
)
from tbtrainer.run.directory import check_run_directory, default_run_directory, named_run_directory
from tbtrainer.run.open_run import OpenRun
from tbtrainer.run.resume import Continued, Training, run_of_checkpoint, shown
from tbtrainer.run.rewind import rewind
from tbtrainer.run.silent_writer import SilentWriter
from tbtrainer.run.summary_writer import RunWriter
from tbtrainer.run.time_limit import within

logger = logging.getLogger(__name__)

# A file system that has not answered for so long when a run is opened counts as hung.
OPEN_SECONDS = 30.0


class RunSession:
    """One run directory after another, and the writer of the present one.

    The storage of a run directory is asked when the run is opened. After that only the thread of
    its event file touches it, so a mount that hangs does not keep the training waiting.

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
        self._named = named_run_directory(logging_dir)
        self._output_dir = os.path.abspath(output_dir)
        # The default run directory, which has the time in its name, and the `output_dir` it is for.
        self._default: tuple[str, str] | None = None
        self._trial_name: str | None = None
        self._writes = writes
        self._isolation = isolation
        self._file_mode = 0o600 if private else 0o666
        self._fsync = fsync
        self._run: OpenRun | None = None
        self._trains = False

    def check(self) -> None:
        """Raises a `ValueError` if the directory that was asked for cannot be written to.

        The default lies below the trainer's output directory, which need not be writable by who
        evaluates alone.
        """
        if self._named is None:
            return
        try:
            within(OPEN_SECONDS, check_run_directory, self._named)
        except TimeoutError as error:
            logger.warning("%s cannot be checked: %s.", shown(self._named), error)

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The writer of the present run, which is opened if there is none."""
        return self.open()

    def open(self) -> RunWriter | SilentWriter:
        """Opens a run of its own, unless one is open, and returns its writer.

        The directory is chosen and claimed here. It is absolute, so it stays the same if the
        process changes its working directory.
        """
        return self._opened_run().writer if self._writes else _SILENT

    def _opened_run(self) -> OpenRun:
        if self._run is None:
            self._run = self._fresh()
        return self._run

    def begin_training(
        self,
        checkpoint: str | None,
        resume: str,
        trial_name: str | None,
        output_dir: str | None = None,
    ) -> None:
        """Chooses the run of a training that is about to begin.

        A run that continues is opened here; a new one with its first record.

        Args:
            checkpoint: The checkpoint it resumes from, if it does.
            resume: `"auto"` to continue the checkpoint's run, `"new"` for another.
            trial_name: Name of the hyper-parameter-search trial, if it is one.
            output_dir: Where the trainer saves its checkpoints now; `None` if as before.
        """
        if not self._writes:
            return
        self._output_dir = os.path.abspath(output_dir or self._output_dir)
        self._trial_name = trial_name
        continued = self._run_of(checkpoint) if checkpoint and resume == "auto" else None
        if continued is not None:
            self._continue(continued)
        elif self._trains or trial_name is not None or self._was_opened_elsewhere():
            # Another training counts its steps from zero: its own run, beside the first.
            self._leave()
        elif self._run is not None and self._run.run_id:
            self._renew(self._run)
        self._trains = True

    def write(self, records: Records, step: int) -> None:
        """Writes records at `step`: the one door through which what observers show reaches the run.

        Secrets are taken out of texts. On ranks that do not write, nothing happens.
        """
        if not self._writes:
            return
        self._opened_run().write(records, step)

    def flush(self, wait_seconds: float | None = None) -> None:
        """Hands what was written to the operating system.

        Args:
            wait_seconds: The longest wait. `None` suits a log call: 50 ms. Anything else is for a
                checkpoint or a signal, and also forces the files to the disk if that was asked for.
        """
        if self._run is not None:
            self._run.writer.flush(wait_seconds)

    def release(self) -> None:
        """Closes the event file until the next record; tools that follow the run do not notice."""
        if self._run is not None:
            self._run.writer.release()

    def close(self) -> None:
        """Closes the event file, and ends the run for tools that follow it.

        What is written later continues the same run.
        """
        if self._run is not None:
            self._run.writer.close()

    def mark_checkpoint(self, checkpoint: str, step: int) -> None:
        """Stores the run and the step in a checkpoint, from which a resumed training continues."""
        if not self._writes:
            return
        self._opened_run().mark(checkpoint, step)

    # ---- A new run ----

    def _requested(self) -> str:
        """The directory of a fresh run."""
        named = self._named_for_trial()
        if named is not None:
            return named
        if self._default is None or self._default[0] != self._output_dir:
            self._default = self._output_dir, default_run_directory(self._output_dir)
        return os.path.join(self._default[1], self._trial_name or "").rstrip("/")

    def _named_for_trial(self) -> str | None:
        if self._named is None or self._trial_name is None:
            return self._named
        return f"{self._named.rstrip('/')}/{self._trial_name}"

    def _fresh(self) -> OpenRun:
        requested = self._requested()
        try:
            directory, claim = within(
                OPEN_SECONDS, _claimed, requested, self._output_dir, self._trains
            )
        except Exception as error:  # Every object store has exceptions of its own.
            return self._unclaimed(requested, error)
        if directory != requested:
            logger.warning(
                "%s is used by another run or writer; this run is written to %s.",
                shown(requested),
                shown(directory),
            )
        return self._opened(directory, claim.run_id)

    def _unclaimed(self, requested: str, error: Exception) -> OpenRun:
        """A run whose directory cannot be claimed now. Its writer keeps records and tries again."""
        directory = directory_without_claim(requested, error)
        level = logging.ERROR if isinstance(error, RunDirectoryUnavailable) else logging.WARNING
        logger.log(
            level,
            "No run directory can be claimed (%s). Training continues; records are kept, and "
            "written to %s when possible. A training resumed from this one begins a new run.",
            redacted_text(str(error)),
            shown(directory),
        )
        return self._opened(directory, "")

    def _opened(self, directory: str, run_id: str, purge_step: int | None = None) -> OpenRun:
        writer = RunWriter(
            directory,
            purge_step,
            file_mode=self._file_mode,
            sync=self._fsync,
            isolation=self._isolation,
        )
        return OpenRun(writer, run_id, self._output_dir)

    def _leave(self) -> None:
        self.close()
        self._run = None

    def _was_opened_elsewhere(self) -> bool:
        """Whether `output_dir` was changed after an evaluation had opened the default run."""
        if self._run is None or self._named is not None:
            return False
        return self._run.output_dir != self._output_dir

    # ---- The run of a checkpoint ----

    def _run_of(self, checkpoint: str) -> Continued | None:
        """The run to continue, or `None`, with the reason logged."""
        checkpoint = os.fspath(checkpoint)
        if not os.path.isdir(checkpoint):
            return None  # `Trainer` raises an error.
        training = Training(self._output_dir, self._named_for_trial())
        try:
            decision = within(OPEN_SECONDS, run_of_checkpoint, checkpoint, training)
        except TimeoutError as error:
            decision = (
                f"The run of {shown(checkpoint)} cannot be looked for ({error}): a new one begins."
            )
        if isinstance(decision, str):
            logger.warning("%s", decision)
            return None
        directory = shown(decision.run.directory)
        if decision.is_assumed:
            logger.warning(
                "%s was saved without a run. It continues %s, the run in which a training of this "
                "output_dir began last; with run_resume='new' it would begin another.",
                shown(checkpoint),
                directory,
            )
        logger.info("The run %s is continued after step %d.", directory, decision.step)
        return decision

    def _continue(self, continued: Continued) -> None:
        self._leave()
        directory, step = continued.run.directory, continued.step
        try:
            rewind(directory, step)
        except Exception as error:
            # Still the right place: the next resume takes out what stays now.
            logger.warning(
                "Events after step %d could not be taken out of %s (%s): until the training is "
                "resumed once more, they are shown beside what it logs now.",
                step,
                shown(directory),
                redacted_text(str(error)),
            )
        self._run = self._opened(directory, continued.run.claim.run_id, purge_step=step + 1)
        self._run.cards.update(continued.cards)
        self._renew(self._run)

    def _renew(self, run: OpenRun) -> None:
        """Notes in the claim that a training begins. The run is the same if that fails."""
        directory = str(run.writer.log_dir)
        try:
            within(OPEN_SECONDS, renew_claim, directory, run.run_id, self._output_dir)
        except Exception as error:  # Every object store has exceptions of its own.
            logger.debug("the claim of %s stays as it was: %s", shown(directory), error)


def _claimed(requested: str, output_dir: str, trains: bool) -> tuple[str, Claim]:
    return claim_run_directory(requested, output_dir, trains=trains)


_SILENT = SilentWriter()
