"""The `SummaryWriter` of world rank zero, and its double on every other rank."""

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import writer as torch_writer
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from tbtrainer.event_file.names import PART_OF_RUN
from tbtrainer.event_file.record_queue import Counters
from tbtrainer.event_file.waiting import CHECKPOINT_SECONDS, LOG_SECONDS
from tbtrainer.event_file.writer import QUEUE_BYTES, EventFileWriter, close_all
from tbtrainer.isolation import Isolation


class RunWriter(SummaryWriter):
    """torch's `SummaryWriter` on an event file that no fault of the disk reaches past.

    All public methods are torch's. The event file is opened with the first record; after `close`
    the next record goes on in it.

    Args:
        log_dir: The run directory: a local path, or a URL that fsspec knows.
        purge_step: First step of an earlier session that this one replaces.
        queue_bytes: The most bytes of records kept while they cannot be written.
        file_mode: Permissions of the event file before the process's umask; `0o600` keeps it from
            other users.
        sync: Whether `finish` and `close` also force the event file to the disk, where it survives
            a power cut.
        filename_suffix: End of the event files' names.
        isolation: What happens to an error of the `add_*` methods, such as a value that cannot be
            converted. By default it is raised.
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
        self._sync = sync
        self._isolation = isolation or Isolation("raise")
        self._events = EventFileWriter(log_dir, suffix=filename_suffix, **self._options)
        super().__init__(log_dir, filename_suffix=filename_suffix)

    def _get_file_writer(self) -> Any:
        # The one seam of torch's SummaryWriter: every add_* asks here (torch 2.4 to 2.13).
        if self.file_writer is None:
            self.file_writer: Any = _FileWriter(self._events)
            self.all_writers: Any = {self._events.get_logdir(): self.file_writer}
        return self.file_writer

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Any,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Adds scalars to one chart: each in a directory of its own below the run's, as torch."""
        self._get_file_writer()
        if self._events.is_other_process:
            return
        for tag in tag_scalar_dict:
            # torch takes a writer of this name if there is one, and makes a stock one if not.
            directory = f"{self._events.get_logdir()}/{main_tag.replace('/', '_')}_{tag}"
            if directory not in self.all_writers:
                events = EventFileWriter(directory, suffix=PART_OF_RUN, **self._options)
                self.all_writers[directory] = _FileWriter(events)
        super().add_scalars(main_tag, tag_scalar_dict, global_step, walltime)

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, Any] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        """Adds hyper-parameters and metrics, in a directory of their own below the run's.

        As torch's, which would write them through a stock writer.
        """
        if type(hparam_dict) is not dict or type(metric_dict) is not dict:
            raise TypeError("hparam_dict and metric_dict should be dictionary.")
        if self._events.is_other_process:
            return
        summaries = hparams(hparam_dict, metric_dict, hparam_domain_discrete)
        directory = os.path.join(self._events.get_logdir(), run_name or str(time.time()))
        options = {**self._options, "purge_step": global_step}
        with RunWriter(directory, filename_suffix=PART_OF_RUN, **options) as writer:
            for summary in summaries:
                writer._get_file_writer().add_summary(summary, global_step)
            for tag, value in metric_dict.items():
                writer.add_scalar(tag, value, global_step)

    def _all_events(self) -> list[EventFileWriter]:
        writers = (self.all_writers or {}).values()
        return [self._events, *(w.event_writer for w in writers if w is not self.file_writer)]

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped."""
        each = [events.counters for events in self._all_events()]
        return Counters(
            sum(c.written for c in each), sum(c.pending for c in each), sum(c.dropped for c in each)
        )

    def flush(self) -> None:
        """Hands what was added to the operating system, waiting 50 ms at the most."""
        deadline = time.monotonic() + LOG_SECONDS
        for events in self._all_events():
            events.flush(None if time.monotonic() < deadline else 0.0)

    def finish(self) -> None:
        """The same, waiting up to a second: before a checkpoint is announced."""
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        for events in self._all_events():
            events.flush(max(0.0, deadline - time.monotonic()), sync=self._sync)

    def close(self) -> None:
        """Writes what is left and closes the event file, which a later record opens again.

        Waits ten seconds at the most, and one on a disk that does not answer.
        """
        if self._sync:
            for events in self._all_events():
                events.flush(0.0, sync=True)
        close_all(self._all_events())


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps an error of a method of `RunWriter` from the training, and says who called it."""

    @functools.wraps(method)
    def call(self: RunWriter, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self._isolation.report(f"write what {_caller()} gave to {method.__name__}", error)

    return call


def _caller() -> str:
    """File and line outside of the writers."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename in (__file__, torch_writer.__file__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


for _name in dir(RunWriter):
    if _name.startswith("add_"):
        setattr(RunWriter, _name, _guarded(getattr(RunWriter, _name)))


class _FileWriter(FileWriter):
    """torch's `FileWriter` on a writer of ours."""

    def __init__(self, events: EventFileWriter) -> None:
        # Not `super().__init__`, which opens an event file of its own. `add_event`, `add_summary`
        # and the others use this attribute alone (torch 2.4 to 2.13).
        self.event_writer = events


# For type checkers the double has the methods of its original; the loop below makes them.
_AnySummaryWriter: Any = SummaryWriter if TYPE_CHECKING else object


def _nothing(self: Any, *args: Any, **kwargs: Any) -> None:
    """Does nothing."""


class SilentWriter(_AnySummaryWriter):
    """Every public method of `RunWriter`, doing nothing: the writer of all other ranks.

    With it, code that writes to `trainer.writer` needs no question about the rank.
    """

    log_dir: str | None = None
    counters = Counters()

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        return None


for _name in dir(RunWriter):
    if not _name.startswith("_") and callable(getattr(RunWriter, _name)):
        setattr(SilentWriter, _name, _nothing)
