"""The runs of one trainer, from its construction to its last evaluation."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from tbtrainer.isolation import Isolation
from tbtrainer.records import Records
from tbtrainer.redaction import redacted_text, shown
from tbtrainer.run.claim import (
    RunDirectoryUnavailable,
    claim_run_directory,
    directory_without_claim,
    renew_claim,
)
from tbtrainer.run.continuing import found_run, rewind_run, states_in
from tbtrainer.run.directory import check_run_directory, default_run_directory, named_run_directory
from tbtrainer.run.mirrors import Mirrors
from tbtrainer.run.open_run import OpenRun
from tbtrainer.run.resume import Continued, Training
from tbtrainer.run.silent_writer import SilentWriter
from tbtrainer.run.summary_writer import RunWriter
from tbtrainer.run.time_limit import while_opening

logger = logging.getLogger(__name__)

# Never changed. Not a `MappingProxyType`, which cannot be copied with the trainer.
_NO_STATES: Mapping[str, Any] = {}


class RunSession:
    """The runs of one trainer, one after another, and the writer of the current one.

    Opening a run reads and claims its directory; a resumed training reads `earlier_blocks` once.
    After that, only the thread that writes uses it, so a mount that hangs delays no training.

    On ranks that do not write, all methods do nothing.

    Args:
        logging_dir: The run directory that the user asked for; `None` for the default below
            `output_dir`.
        output_dir: Where the trainer saves its checkpoints.
        writes: Whether this rank writes: true on world rank zero alone.
        isolation: Reports errors of the writer's `add_*` methods; see `RunWriter`.
        private: Whether the run's files are readable by this user only.
        fsync: Whether a checkpoint also forces the event files to the disk, and a line of a
            `JsonLine` its file.
        mirrors: Pass scalars and histograms on to other trackers; `None` for none.
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
        mirrors: Mirrors | None = None,
    ) -> None:
        self._named = named_run_directory(logging_dir)
        self._output_dir = os.path.abspath(output_dir)
        # The `output_dir` and the default run directory below it, which has the time in its name.
        self._default: tuple[str, str] | None = None
        self._trial_name: str | None = None
        self._writes = writes
        self._isolation = isolation
        self._file_mode = 0o600 if private else 0o666
        self._fsync = fsync
        self._mirrors = mirrors or Mirrors()
        self._run: OpenRun | None = None
        self._saved_observers, self._trains = _NO_STATES, False

    def check(self) -> None:
        """Checks that the run directory that the user asked for can be written to.

        The default directory is not checked: it lies below `output_dir`, which may be read-only if
        the trainer is only used to evaluate.

        Raises:
            ValueError: The directory cannot be written to.
        """
        if self._named is None or not self._writes:
            return
        try:
            while_opening(check_run_directory, self._named)
        except TimeoutError as error:
            logger.warning(
                "logging_dir=%s was not checked before training (%s). Training continues. If the "
                "directory cannot be written to, a later warning says where the records are.",
                shown(self._named),
                error,
            )

    @property
    def writer(self) -> RunWriter | SilentWriter:
        """The writer of the current run. If there is none, a run is opened first.

        Opening a run chooses and claims its directory. The path is absolute, so the directory stays
        the same if the process changes its working directory.
        """
        return self._opened_run().writer if self._writes else _SILENT

    @property
    def is_open(self) -> bool:
        """Whether writing a record opens no run."""
        return self._run is not None

    def _opened_run(self) -> OpenRun:
        if self._run is None:
            self._run = self._open_new()
        return self._run

    def begin_training(
        self,
        checkpoint: str | None,
        resume: str,
        trial_name: str | None,
        output_dir: str | None = None,
    ) -> None:
        """Chooses the run of a training that is about to begin.

        A run that is continued is opened here. A new run is opened with its first record.

        Args:
            checkpoint: The checkpoint that the training resumes from; `None` if it starts anew.
            resume: `"auto"` to continue the checkpoint's run, `"new"` to begin a new one.
            trial_name: Name of the trial of a hyper-parameter search; `None` outside of a search.
            output_dir: Where the trainer saves its checkpoints now; `None` if that is unchanged.
        """
        if not self._writes:
            return
        self._output_dir = os.path.abspath(output_dir or self._output_dir)
        self._trial_name = trial_name
        self._saved_observers = states_in(checkpoint) if checkpoint else {}
        continued = None
        if checkpoint and resume == "auto":
            training = Training(self._output_dir, self._named_for_trial())
            continued = found_run(checkpoint, training)
        if continued is not None:
            self._continue(continued)
        elif self._trains or trial_name is not None or self._was_opened_elsewhere():
            # Another training counts its steps from zero, so it gets a run of its own.
            self._close_run()
        elif self._run is not None and self._run.run_id:
            self._renew(self._run)
        self._trains = True

    @property
    def saved_observers(self) -> Mapping[str, Any]:
        """The states of observers in the checkpoint that the training resumes from, by name.

        Set by `begin_training`, whether the run of the checkpoint is continued or not. Empty if the
        training does not resume, if the checkpoint has no readable marker of its own step, and on
        ranks that do not write. The checkpoint may come from any source: the states are plain JSON,
        and each observer checks its own.
        """
        return self._saved_observers

    def write(self, records: Records, step: int) -> None:
        """Writes the records that observers returned, at `step`. Secrets in texts are hidden."""
        if self._writes:
            self._opened_run().write(records, step)

    def flush(self, wait_seconds: float | None = None) -> None:
        """Waits until what was written has been handed to the operating system.

        Args:
            wait_seconds: The longest wait. `None`, for a log call, waits 50 ms at most. With a
                number, for a checkpoint or a signal, files are also forced to the disk if `fsync`
                is set.
        """
        if self._run is not None:
            self._run.flush(wait_seconds)

    def release(self) -> None:
        """Closes the run's files until the next record. Tools that follow the run see no end."""
        if self._run is not None:
            self._run.release()

    def close(self) -> None:
        """Closes the run's files, and ends the run for tools that follow it.

        Records that are written later are added to the same run.
        """
        if self._run is not None:
            self._run.close()

    def mark_checkpoint(
        self, checkpoint: str, step: int, observers: Mapping[str, Any] = _NO_STATES
    ) -> None:
        """Writes the marker of a checkpoint, by which a resumed training finds its run.

        Args:
            checkpoint: The directory of the checkpoint, which exists.
            step: Optimizer steps taken so far.
            observers: The states that observers keep over a resume, by name: JSON values. Those
                that JSON or the marker cannot hold are left out, with one warning.
        """
        if self._writes:
            self._opened_run().mark(checkpoint, step, observers)

    # ---- A new run ----

    def _requested(self) -> str:
        """Returns the directory for a new run, as asked for or the default."""
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

    def _open_new(self) -> OpenRun:
        """Chooses and claims a directory for a new run, and opens it."""
        requested = self._requested()
        try:
            claim_it = partial(
                claim_run_directory, requested, self._output_dir, trains=self._trains
            )
            directory, claim = while_opening(claim_it)
        except Exception as error:  # Every object store has exceptions of its own.
            return self._open_unclaimed(requested, error)
        if directory != requested:
            logger.warning(
                "%s already holds another run or other event files. They stay as they are, and "
                "this run is written to %s. To choose its place, set logging_dir to an unused "
                "directory.",
                shown(requested),
                shown(directory),
            )
        return self._opened(directory, claim.run_id)

    def _open_unclaimed(self, requested: str, error: Exception) -> OpenRun:
        """Opens a run whose directory cannot be claimed. Its writer keeps records and retries."""
        directory = directory_without_claim(requested, error)
        level = logging.ERROR if isinstance(error, RunDirectoryUnavailable) else logging.WARNING
        logger.log(
            level,
            "No run directory can be claimed (%s). Training continues. Records are kept in memory "
            "and written to %s as soon as that is possible. A training that resumes from a "
            "checkpoint of this one begins a new run. To avoid this, set logging_dir to a "
            "directory that can be written to.",
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
        return OpenRun(
            writer, run_id, self._output_dir, self._file_mode, self._fsync, mirrors=self._mirrors
        )

    def _close_run(self) -> None:
        """Closes the current run. The next record opens another."""
        self.close()
        self._run = None

    def _was_opened_elsewhere(self) -> bool:
        """Whether `output_dir` was changed after an evaluation opened a default directory."""
        if self._run is None or self._named is not None:
            return False
        return self._run.output_dir != self._output_dir

    # ---- The run of a checkpoint ----

    def _continue(self, continued: Continued) -> None:
        """Removes the events after the checkpoint from its run, and opens the run."""
        self._close_run()
        directory, step = continued.run.directory, continued.step
        rewind_run(continued)
        self._run = self._opened(directory, continued.run.claim.run_id, purge_step=step + 1)
        self._run.continues(continued.cards)
        self._renew(self._run)

    def _renew(self, run: OpenRun) -> None:
        """Stores in the claim that a training begins. An error here does not change the run."""
        directory = str(run.writer.log_dir)
        try:
            while_opening(renew_claim, directory, run.run_id, self._output_dir)
        except Exception as error:  # Every object store has exceptions of its own.
            logger.debug("The claim of %s was not renewed: %s", shown(directory), shown(error))


_SILENT = SilentWriter()
