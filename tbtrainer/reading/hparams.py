"""The hyper-parameters of a run, as TensorBoard's HParams dashboard shows them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tbtrainer.reading.records import Record

EXPERIMENT = "_hparams_/experiment"
SESSION_START = "_hparams_/session_start_info"
SESSION_END = "_hparams_/session_end_info"
TAGS = frozenset((EXPERIMENT, SESSION_START, SESSION_END))
# Of the plugin's `Status`.
_STATUS = {1: "success", 2: "failure", 3: "running"}


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters and status of a run.

    Attributes:
        values: The hyper-parameters by name: numbers, texts and booleans. Empty if there are none.
        metrics: Tags of the metrics that the dashboard shows beside them.
        status: "success", "failure" or "running" as the end of the last session says. `None` if it
            has no end: it runs, or was killed.
        start_time: When the last session began, in seconds since 1970; `None` if unknown.
        end_time: When it ended; `None` if unknown.
    """

    values: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    status: str | None = None
    start_time: float | None = None
    end_time: float | None = None


def read_hparams(records: Iterable[Record]) -> HParams:
    """Returns the hyper-parameters of a run.

    As in TensorBoard, the columns are the first ones that were written. The rest is of the last
    session.

    Args:
        records: Those under `TAGS`, in the order read.
    """
    found: dict[str, bytes] = {}
    for record in records:
        if not isinstance(record.value, bytes):
            continue
        if record.tag == SESSION_START:
            # An end before it is that of the session before.
            found.pop(SESSION_END, None)
        if record.tag == EXPERIMENT:
            found.setdefault(EXPERIMENT, record.value)
        else:
            found[record.tag] = record.value
    return hparams_of(found)


def hparams_of(latest: dict[str, bytes]) -> HParams:
    """Returns the hyper-parameters of a run.

    Args:
        latest: By tag of `TAGS`, the content of the plugin's metadata at the value that counts.
    """
    experiment = _parsed(latest.get(EXPERIMENT)).experiment
    start = _parsed(latest.get(SESSION_START)).session_start_info
    end = _parsed(latest.get(SESSION_END)).session_end_info
    metrics = [info.name.tag for info in experiment.metric_infos if info.name.tag]
    return HParams(
        values={name: _value(start.hparams[name]) for name in sorted(start.hparams)},
        metrics=tuple(dict.fromkeys(metrics)),
        status=_STATUS.get(end.status),
        start_time=start.start_time_secs or None,
        end_time=end.end_time_secs or None,
    )


def _parsed(content: bytes | None) -> Any:
    try:
        return HParamsPluginData.FromString(content or b"")
    except DecodeError:
        return HParamsPluginData()


def _value(value: Any) -> Any:
    """Returns a value of protobuf's `Value` as an object of Python."""
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [_value(inner) for inner in value.list_value.values]
    return None if kind in (None, "null_value", "struct_value") else getattr(value, kind)
