"""The *HParams* dashboard of TensorBoard: its columns, a run's row, and how the run ended."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)

from tbtrainer.dashboard_records import HParamsColumns, HParamsEnd, HParamsRow
from tbtrainer.redaction import redacted, redacted_name

COLUMNS_TAG: str = metadata.EXPERIMENT_TAG
ROW_TAG: str = metadata.SESSION_START_INFO_TAG
END_TAG: str = metadata.SESSION_END_INFO_TAG

_TYPES = {
    "number": api_pb2.DATA_TYPE_FLOAT64,
    "text": api_pb2.DATA_TYPE_STRING,
    "flag": api_pb2.DATA_TYPE_BOOL,
}


def shown_row(row: HParamsRow) -> HParamsRow:
    """Returns a row as it is shown: without secrets, and without numbers that are not finite."""
    shown: dict[str, bool | float | str] = {}
    for name, value in row.values.items():
        hidden = redacted(value, name)
        if not isinstance(hidden, float) or math.isfinite(hidden):
            shown[redacted_name(name)] = hidden
    return HParamsRow(shown, row.began)


def comparable_row(row: HParamsRow) -> bytes:
    """Returns what is equal for rows with equal values, whenever they began."""
    return json.dumps(dict(row.values), sort_keys=True).encode()


def row_summary(row: HParamsRow) -> Summary:
    """Returns the row of a run as TensorBoard reads it."""
    start = SessionStartInfo(start_time_secs=row.began)
    _set_values(start.hparams, row.values)
    return _summary(ROW_TAG, HParamsPluginData(session_start_info=start))


def end_summary(end: HParamsEnd) -> Summary:
    """Returns how a run ended now, as TensorBoard reads it."""
    status = api_pb2.STATUS_SUCCESS if end.is_success else api_pb2.STATUS_FAILURE
    info = SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary(END_TAG, HParamsPluginData(session_end_info=info))


def experiment_summary(experiment: api_pb2.Experiment) -> Summary:
    """Returns columns as a summary. Equal columns give equal summaries."""
    return _summary(COLUMNS_TAG, HParamsPluginData(experiment=experiment))


def experiment_of(columns: HParamsColumns) -> api_pb2.Experiment:
    """Returns columns as TensorBoard reads them: it calls them an experiment."""
    hparams = [
        api_pb2.HParamInfo(
            name=redacted_name(hparam.name),
            description=hparam.description,
            type=_TYPES[hparam.kind],
            # TensorBoard shows these first. It computes it for runs without columns only.
            differs=hparam.is_prominent,
        )
        for hparam in columns.hparams
    ]
    metrics = [
        api_pb2.MetricInfo(
            name=api_pb2.MetricName(tag=metric.tag),
            display_name=metric.title,
            dataset_type=(
                api_pb2.DATASET_TRAINING if metric.is_of_training else api_pb2.DATASET_VALIDATION
            ),
        )
        for metric in columns.metrics
    ]
    return api_pb2.Experiment(hparam_infos=hparams, metric_infos=metrics)


def _set_values(shown: Any, values: Mapping[str, bool | float | str]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            shown[name].bool_value = value
        elif isinstance(value, str):
            shown[name].string_value = value
        else:
            shown[name].number_value = value


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    value = Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return Summary(value=[value])
