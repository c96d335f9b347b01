"""The `SummaryWriter` of world rank zero, and its double on every other rank."""

from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from tbtrainer.run.event_file import CLOSE_SECONDS, QUEUE_BYTES, Counters, EventFileWriter


class RunWriter(SummaryWriter):
    """torch's `SummaryWriter` on an event file that no fault of the disk reaches past.

    All public methods are torch's. The event file is opened with the first record; after `close`
    the next record opens it again.

    Args:
        log_dir: The run directory.
        purge_step: First step of an earlier session that this one replaces.
        queue_bytes: The most bytes of records kept while they cannot be written.
    """

    def __init__(
        self, log_dir: str, purge_step: int | None = None, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._events = EventFileWriter(log_dir, purge_step, queue_bytes)
        self.file_writer: Any = None
        super().__init__(log_dir)

    def _get_file_writer(self) -> Any:
        # The one seam of torch's SummaryWriter: every add_* asks here (torch 2.4 to 2.13).
        if self.file_writer is None:
            self.file_writer = _FileWriter(self._events)
            self.all_writers: Any = {self._events.get_logdir(): self.file_writer}
        return self.file_writer

    @property
    def counters(self) -> Counters:
        """How many records were written, wait, or were dropped."""
        return self._events.counters

    def flush(self) -> None:
        """Hands what was added to the operating system, waiting 50 ms at the most."""
        self._events.flush()

    def finish(self) -> None:
        """The same, waiting up to a second: before a checkpoint is announced."""
        self._events.flush(CLOSE_SECONDS)

    def close(self) -> None:
        """Writes what is left, within two seconds, and closes the event file."""
        self._events.close()


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
    """Every public method of `SummaryWriter`, doing nothing: the writer of all other ranks.

    With it, code that writes to `trainer.writer` needs no question about the rank.
    """

    log_dir: str | None = None

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        return None


for _name in dir(SummaryWriter):
    if not _name.startswith("_") and callable(getattr(SummaryWriter, _name)):
        setattr(SilentWriter, _name, _nothing)
