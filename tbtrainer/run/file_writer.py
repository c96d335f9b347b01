"""torch's `FileWriter`, writing to tbtrainer's event file, so that other tools can follow the run.

Some tools follow runs by replacing names of torch. Weights & Biases replaces the class
`EventFileWriter` in `torch.utils.tensorboard.writer`, and reads the files in the directory that its
class is given. MLflow and ClearML replace methods of `FileWriter`. The classes here derive from the
classes that these names refer to, so such a tool follows a run as it follows a stock one.
"""

from typing import Any

from tensorboard.compat.proto.summary_pb2 import DataClass
from tensorboard.summary.writer.event_file_writer import EventFileWriter as StockEventFileWriter
from torch.utils.tensorboard import writer as torch_writer
from torch.utils.tensorboard.writer import FileWriter

from tbtrainer.event_file.writer import EventFileWriter
from tbtrainer.isolation import Isolation
from tbtrainer.tag import Kind
from tbtrainer.tags import description_of

# By field of a value: the kind of its tag, the plugin that shows it if it has no metadata, and its
# data class. In TensorBoard 2.21 the data server in Rust discards metadata without a data class.
_SHOWN_BY: dict[str, tuple[Kind, str, Any]] = {
    "simple_value": ("scalar", "scalars", DataClass.DATA_CLASS_SCALAR),
    "histo": ("histogram", "histograms", DataClass.DATA_CLASS_TENSOR),
    "image": ("image", "images", DataClass.DATA_CLASS_BLOB_SEQUENCE),
}
# Likewise, by plugin, for values whose metadata torch writes without a data class.
_DATA_CLASSES: dict[str, tuple[Kind, Any]] = {
    "pr_curves": ("PR curve", DataClass.DATA_CLASS_TENSOR)
}


class RunFileWriter(FileWriter):
    """torch's `FileWriter`, writing to tbtrainer's event file.

    Args:
        events: The writer of the event file.
        filename_suffix: End of the event file's name, for the tools that ask for it.
        isolation: Reports errors of tools that follow event files.
    """

    def __init__(self, events: EventFileWriter, filename_suffix: str, isolation: Isolation) -> None:
        # `super().__init__` is not called, because it opens an event file of its own. `add_event`,
        # `add_summary` and the other methods use only this attribute (torch 2.4 to 2.13).
        self.event_writer: Any = _stock_event_writer(events, filename_suffix, isolation)
        self._described: set[str] = set()

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Adds an event. The first one of a tag contains the description for TensorBoard."""
        values = event.summary.value
        for index in range(len(values)):  # Iterating over the values costs twice as much.
            tag = values[index].tag
            if tag not in self._described:
                self._described.add(tag)
                _describe(values[index])
        super().add_event(event, step, walltime)


def _describe(value: Any) -> None:
    """Adds the description of a tag to a value, in the form that all loaders read."""
    metadata = value.metadata
    if value.HasField("metadata"):
        plugin = metadata.plugin_data.plugin_name
        if plugin in _DATA_CLASSES and not metadata.summary_description:
            kind, data_class = _DATA_CLASSES[plugin]
            if description := description_of(value.tag, kind):
                metadata.summary_description, metadata.data_class = description, data_class
        return
    field = value.WhichOneof("value")
    if field in _SHOWN_BY:
        kind, plugin, data_class = _SHOWN_BY[field]
        if description := description_of(value.tag, kind):
            metadata.summary_description, metadata.data_class = description, data_class
            metadata.plugin_data.plugin_name = plugin


class _EventWriter(StockEventFileWriter):
    """tensorboard's `EventFileWriter`, passing each event to `events` instead of a file."""

    events: EventFileWriter

    def __init__(self, logdir: str, *args: Any, **kwargs: Any) -> None:
        # `super().__init__` is not called, because it opens an event file. If a tool's class
        # derives from this one, its call of `super().__init__` ends here.
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
    """Returns the class that torch's `FileWriter` would use now: the stock one, or a tool's."""
    return torch_writer.EventFileWriter


def _stock_event_writer(events: EventFileWriter, filename_suffix: str, isolation: Isolation) -> Any:
    """Returns a writer that is an instance of the class that torch would use now."""
    replacement = current_event_writer_class()
    try:
        if not issubclass(_EventWriter, replacement):
            followed = type("FollowedEventWriter", (replacement, _EventWriter), {})
            return _made(followed, events, filename_suffix)
    except Exception as error:
        # For example, the class of a tool cannot be derived from, or its service does not answer.
        isolation.report(f"let {replacement!r} follow the event file", error)
    return _made(_EventWriter, events, filename_suffix)


def _made(cls: Any, events: EventFileWriter, filename_suffix: str) -> Any:
    """Returns a writer of class `cls`, which may be a tool's, for tbtrainer's event file."""
    writer = cls.__new__(cls)
    # Set before `__init__`, because the one of a tool may already add an event.
    writer.events = events
    # The order of arguments in torch, and its defaults of `max_queue` and `flush_secs`.
    writer.__init__(events.get_logdir(), 10, 120, filename_suffix)
    return writer
