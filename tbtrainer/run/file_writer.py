"""torch's `FileWriter` on an event file of ours, in a way that other tools can follow.

Some tools learn of a run by replacing a class of torch's: Weights & Biases replaces the name
`EventFileWriter` in `torch.utils.tensorboard.writer` and reads the files in the directory that its
class is given; MLflow and ClearML replace methods of `FileWriter`. The classes here derive from
whatever those names stand for, so such a tool sees a run as it sees a stock `SummaryWriter`'s.
"""

from typing import Any

from tensorboard.compat.proto.summary_pb2 import DataClass
from tensorboard.summary.writer.event_file_writer import EventFileWriter as StockEventFileWriter
from torch.utils.tensorboard import writer as torch_writer
from torch.utils.tensorboard.writer import FileWriter

from tbtrainer.event_file.writer import EventFileWriter
from tbtrainer.isolation import Isolation
from tbtrainer.tags import description_of

# What a value without metadata is shown by, and its data class. The data server in Rust replaces
# metadata without a data class, the description with it (tensorboard 2.21).
_SHOWN_BY = {
    "simple_value": ("scalars", DataClass.DATA_CLASS_SCALAR),
    "histo": ("histograms", DataClass.DATA_CLASS_TENSOR),
}


class RunFileWriter(FileWriter):
    """torch's `FileWriter`, writing to an event file of ours.

    Args:
        events: The writer of the event file.
        filename_suffix: End of the event file's name, for the tools that ask for it.
        isolation: What happens to an error of a tool that follows event files.
    """

    def __init__(self, events: EventFileWriter, filename_suffix: str, isolation: Isolation) -> None:
        # Not `super().__init__`, which opens an event file of its own. `add_event`, `add_summary`
        # and the others use this attribute alone (torch 2.4 to 2.13).
        self.event_writer: Any = _stock_event_writer(events, filename_suffix, isolation)
        self._described: set[str] = set()

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Adds an event. The first one of a tag carries its description, for TensorBoard's card."""
        values = event.summary.value
        for index in range(len(values)):  # Iterating over the values costs twice as much.
            tag = values[index].tag
            if tag not in self._described:
                self._described.add(tag)
                _describe(values[index])
        super().add_event(event, step, walltime)


def _describe(value: Any) -> None:
    """Puts what is known of a tag into its metadata, in the form that all loaders read."""
    shown_by = _SHOWN_BY.get(value.WhichOneof("value"))
    description = description_of(value.tag)
    if shown_by is not None and description and not value.HasField("metadata"):
        value.metadata.summary_description = description
        value.metadata.plugin_data.plugin_name, value.metadata.data_class = shown_by


class _EventWriter(StockEventFileWriter):
    """tensorboard's `EventFileWriter`, which opens no file and hands each record to `events`."""

    events: EventFileWriter

    def __init__(self, logdir: str, *args: Any, **kwargs: Any) -> None:
        # Not `super().__init__`, which opens the event file. A tool's class that stands in front
        # of this one ends here with its own `super().__init__`.
        self._logdir = logdir

    def get_logdir(self) -> str:
        return self.events.get_logdir()

    def add_event(self, event: Any) -> None:
        self.events.add_event(event)

    def flush(self) -> None:
        self.events.flush()

    def close(self) -> None:
        self.events.close()

    def reopen(self) -> None:
        self.events.reopen()


def current_event_writer_class() -> Any:
    """Returns what torch's `FileWriter` would make now: the stock class, or a tool's."""
    return torch_writer.EventFileWriter


def _stock_event_writer(events: EventFileWriter, filename_suffix: str, isolation: Isolation) -> Any:
    """Returns a writer that is an instance of the class that torch would make now."""
    replacement = current_event_writer_class()
    try:
        if not issubclass(_EventWriter, replacement):
            followed = type("FollowedEventWriter", (replacement, _EventWriter), {})
            return _made(followed, events, filename_suffix)
    except Exception as error:
        # Such as a tool whose class cannot be derived from, or whose service fails.
        isolation.report(f"let {replacement!r} follow the event file", error)
    return _made(_EventWriter, events, filename_suffix)


def _made(cls: Any, events: EventFileWriter, filename_suffix: str) -> Any:
    """Returns a writer of class `cls`, which may be a tool's, on an event file of ours."""
    writer = cls.__new__(cls)
    # Before `__init__`: a tool's may already add an event.
    writer.events = events
    # torch's defaults of `max_queue` and `flush_secs`, and its order of arguments.
    writer.__init__(events.get_logdir(), 10, 120, filename_suffix)
    return writer
