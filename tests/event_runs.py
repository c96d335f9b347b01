"""Event files written record by record, as other programs, and faults, leave them."""

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tbtrainer.event_file.records import framed
from tbtrainer.reading.hparams import SESSION_END, SESSION_START

# No process has this id: it is larger than Linux and macOS give out.
NO_PROCESS = 2**22 + 1
BEGIN = 1_700_000_000


def event_file_of(pid: int, began: int = BEGIN, host: str | None = None) -> str:
    """The name of an event file, as tensorboard's own writer makes it."""
    return f"events.out.tfevents.{began}.{host or socket.gethostname()}.{pid}.0"


def scalar(tag: str, step: int, value: float, wall_time: float = BEGIN) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return _record(step, wall_time, summary)


def text(tag: str, content: str, step: int = 0, wall_time: float = BEGIN) -> bytes:
    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=7, string_val=[content.encode()])
    value = Summary.Value(tag=tag, metadata=plugin, tensor=tensor)
    return _record(step, wall_time, Summary(value=[value]))


def session_start(
    wall_time: float = BEGIN, hparams: Mapping[str, float] = MappingProxyType({})
) -> bytes:
    data = HParamsPluginData()
    data.session_start_info.start_time_secs = wall_time
    for name, value in hparams.items():
        data.session_start_info.hparams[name].number_value = value
    return _hparams(SESSION_START, data, wall_time)


def session_end(status: int, wall_time: float = BEGIN) -> bytes:
    """The record of the end of a run: 1 for success, 2 for failure."""
    data = HParamsPluginData()
    data.session_end_info.status = status
    data.session_end_info.end_time_secs = wall_time
    return _hparams(SESSION_END, data, wall_time)


def curve(tag: str, steps: Iterable[int], wall_time: float = BEGIN) -> list[bytes]:
    """Scalars whose value is the step, a second apart."""
    return [scalar(tag, step, step, wall_time + number) for number, step in enumerate(steps)]


def write(
    directory: Path,
    records: Iterable[bytes],
    began: int = BEGIN,
    pid: int = NO_PROCESS,
    start_step: int | None = None,
) -> Path:
    """Writes an event file of a process that has ended."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / event_file_of(pid, began)
    header = [Event(wall_time=began, file_version="brain.Event:2")]
    if start_step is not None:
        start = SessionLog(status=SessionLog.START)
        header.append(Event(wall_time=began, step=start_step, session_log=start))
    written = [framed(event.SerializeToString()) for event in header]
    path.write_bytes(b"".join([*written, *records]))
    return path


def _hparams(tag: str, data: HParamsPluginData, wall_time: float) -> bytes:
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    return _record(0, wall_time, Summary(value=[value]))


def _record(step: int, wall_time: float, summary: Summary) -> bytes:
    return framed(Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())
