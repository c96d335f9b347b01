"""The `SummaryWriter` of world rank zero."""

import threading
import time
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from tbtrainer.event_file.bounded_queue import Counters
from tbtrainer.event_file.names import PART_OF_RUN, is_remote
from tbtrainer.event_file.waiting import CHECKPOINT_SECONDS, LOG_SECONDS
from tbtrainer.event_file.writer import QUEUE_BYTES, EventFileWriter, close_all
from tbtrainer.isolation import Isolation
from tbtrainer.run.added_hparams import AddedHParams
from tbtrainer.run.file_writer import RunFileWriter, current_event_writer_class
from tbtrainer.run.guarded_methods import guard_add_methods, is_replaced

# The most event files of `add_scalars` that are open at a time. Each needs a file descriptor and a
# thread, and on macOS a process has 256 descriptors by default.
MOST_OPEN_SERIES = 64


@guard_add_methods
class RunWriter(SummaryWriter):
    """torch's `SummaryWriter`, whose methods never raise an error for a fault of the disk.

    It has all public methods of torch's class. The event file is created with the first record.
    After `close`, the next record is appended to the same file.

    Tools that follow a stock `SummaryWriter` also follow this one, because methods of torch's
    `SummaryWriter` and names in `torch.utils.tensorboard.writer` are looked up at each call.

    Args:
        log_dir: The run directory: a local path, or a URL that fsspec knows.
        purge_step: First step of earlier sessions in the directory that this one replaces.
        queue_bytes: The most bytes of records kept while they cannot be written.
        file_mode: Permissions of the event file before the process's umask. With `0o600`, only
            this user can read it.
        sync: Whether `flush` with a time and `close` also force the event file to the disk, where
            it survives a power cut.
        filename_suffix: End of the event files' names.
        isolation: Reports errors of the `add_*` methods, such as a value that cannot be
            converted. By default they are raised.

    Attributes:
        called: Names of the `add_*` methods that were called.
        added_hparams: The columns of `add_hparams`, and of the run itself.
    """

    def __init__(
        self,
        log_dir: str,
        purge_step: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        *,
        file_mode: int = 0o666,
        sync: bool = False,
        filename_suffix: str = "",
        isolation: Isolation | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "purge_step": purge_step,
            "queue_bytes": queue_bytes,
            "file_mode": file_mode,
        }
        self.called: set[str] = set()
        self._sync = sync
        self._isolation = isolation or Isolation("raise")
        self.added_hparams = AddedHParams(log_dir, file_mode)
        self._events = EventFileWriter(log_dir, suffix=filename_suffix, **self._options)
        # The writers of `add_scalars`, by directory: all of them, and those whose file may be open,
        # the least recently used first.
        self._series: dict[str, EventFileWriter] = {}
        self._open_series: dict[str, EventFileWriter] = {}
        # torch's writers of those event files, by directory, and the class that torch's module had
        # when they were made.
        self._file_writers: dict[str, RunFileWriter] = {}
        self._event_writer_class: Any = None
        super().__init__(log_dir, filename_suffix=filename_suffix)

    def write_summary(self, summary: Any, global_step: int | None = None) -> None:
        """Writes a summary that no `add_*` method makes.

        Args:
            summary: A `Summary` of tensorboard.
            global_step: Its step; `None` for one that belongs to the whole run.
        """
        if self.all_writers is None:
            self._reopen()
        self._get_file_writer().add_summary(summary, global_step)

    # ---- torch's writers for tbtrainer's event files ----

    def _get_file_writer(self) -> Any:
        # Every add_* method of torch's SummaryWriter calls this method (torch 2.4 to 2.13).
        current = current_event_writer_class()
        if self.file_writer is None or self._event_writer_class is not current:
            with _making_file_writers:
                if self._event_writer_class is not current:
                    # A tool has begun or ended to follow event files since these were made.
                    self._file_writers.clear()
                    self._event_writer_class = current
                directory = self._events.get_logdir()
                self.all_writers: Any = {directory: self._file_writer(self._events)}
                self.file_writer: Any = self.all_writers[directory]
        return self.file_writer

    def _file_writer(self, events: EventFileWriter) -> RunFileWriter:
        """Returns torch's writer for an event file. Each is made only once, as tools count them."""
        with _making_file_writers:
            directory = events.get_logdir()
            if directory not in self._file_writers:
                self._file_writers[directory] = RunFileWriter(
                    events, self.filename_suffix, self._isolation
                )
            return self._file_writers[directory]

    def _reopen(self) -> None:
        """Opens a closed writer again. Tools that follow it see a new writer, as of a stock one."""
        if self.all_writers is None:
            with _making_file_writers:
                if self.all_writers is None:
                    super().__init__(self.log_dir, filename_suffix=self.filename_suffix)

    # ---- Methods of torch that write to directories below the run directory ----

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Any,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Adds scalars to one chart. As in torch, each has its own directory below the run's.

        At most `MOST_OPEN_SERIES` of their event files stay open.
        """
        if self._events.is_other_process:
            return
        walltime = time.time() if walltime is None else walltime
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        for tag, value in tag_scalar_dict.items():
            self._get_file_writer()
            # torch uses the writer in `all_writers` if there is one, and otherwise makes one.
            directory = f"{self._events.get_logdir()}/{main_tag.replace('/', '_')}_{tag}"
            if directory not in self._series:
                self._series[directory] = EventFileWriter(
                    directory, suffix=PART_OF_RUN, **self._options
                )
            self.all_writers[directory] = self._file_writer(self._series[directory])
            super().add_scalars(main_tag, {tag: value}, global_step, walltime)
            self._open_series.pop(directory, None)
            self._open_series[directory] = self._series[directory]
            self._close_least_recently_used(deadline)

    def _close_least_recently_used(self, deadline: float) -> None:
        """Closes event files of `add_scalars` above the limit, if their records are written."""
        if is_remote(self._events.get_logdir()):
            return  # Remote event files are not open files.
        for directory in list(self._open_series)[: -MOST_OPEN_SERIES or None]:
            events = self._open_series[directory]
            if events.flush(max(0.0, deadline - time.monotonic())):
                events.close()
                del self._open_series[directory]

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, Any] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        """Adds hyper-parameters and metrics. As in torch, they have a directory below the run's.

        It has a row of its own beside that of the run, and both have the columns of both.

        If a tool has replaced this method of torch's `SummaryWriter`, as MLflow does, the tool's
        method is called, and torch writes the event file itself.
        """
        if is_replaced("add_hparams"):
            super().add_hparams(
                hparam_dict, metric_dict, hparam_domain_discrete, run_name, global_step
            )
            return
        if type(hparam_dict) is not dict or type(metric_dict) is not dict:
            raise TypeError("hparam_dict and metric_dict should be dictionary.")
        if self._events.is_other_process:
            return
        self.added_hparams.write(
            hparam_dict,
            metric_dict,
            hparam_domain_discrete,
            name=run_name or str(time.time()),
            global_step=global_step,
            options={**self._options, "purge_step": global_step},
            isolation=self._isolation,
        )

    # ---- Flushing and closing ----

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped so far, in all event files."""
        each = [events.counters for events in self._all_events()]
        return Counters(
            sum(c.written for c in each), sum(c.pending for c in each), sum(c.dropped for c in each)
        )

    def flush(self, wait_seconds: float | None = None) -> None:
        """Waits until what was added has been handed to the operating system.

        Args:
            wait_seconds: The longest wait. `None`, for a log call, waits `LOG_SECONDS` at most, and
                not at all for a slow disk. With a number, files are also forced to the disk if
                `sync` is set.
        """
        limit = LOG_SECONDS if wait_seconds is None else wait_seconds
        deadline = time.monotonic() + limit
        for events in self._all_events():
            remaining = max(0.0, deadline - time.monotonic())
            if wait_seconds is None:
                events.flush(None if remaining else 0.0)
            else:
                events.flush(remaining, sync=self._sync)

    def release(self) -> None:
        """Writes the waiting records and closes the event files. The next record opens them again.

        Waits at most ten seconds, and at most one second for a disk that hangs. Tools that follow
        the writer are not informed of it.
        """
        if self._sync:
            for events in self._all_events():
                events.flush(0.0, sync=True)
        close_all(self._all_events())
        self._open_series.clear()

    def close(self) -> None:
        """Closes the event files as `release` does, and closes torch's writer.

        A tool that replaced `SummaryWriter.close` is informed of it: SwanLab ends its run.
        """
        self.release()
        if self.all_writers is not None:
            self.all_writers = {}  # They are already closed, so torch's method closes none.
            with self._isolation.guard("close torch's writer"):
                super().close()

    def _all_events(self) -> list[EventFileWriter]:
        return [self._events, *self._series.values()]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves torch's writers out: their class may be a tool's, which cannot be pickled."""
        anew = {"file_writer": None, "all_writers": None, "_event_writer_class": None}
        return {**vars(self), **anew, "_file_writers": {}, "_open_series": {}}


# Held while torch's writers are made, because histograms are added by another thread. All writers
# share it, because a writer with a lock could not be copied to another process.
_making_file_writers = threading.RLock()
