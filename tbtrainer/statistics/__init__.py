"""Counts, extremes, sums, norms and histograms of tensors of any dtype and device."""

from tbtrainer.statistics.buckets import (
    BUCKET_COUNT,
    BUCKET_EDGES,
    LINEAR_BUCKET_COUNT,
    LINEAR_MAX_ELEMENTS,
)
from tbtrainer.statistics.differences import Differences, TensorCopies
from tbtrainer.statistics.measure import (
    measure,
    measure_linear,
    prepare,
    why_not_measurable,
)
from tbtrainer.statistics.merge import histograms
from tbtrainer.statistics.narrow import PreviousExtremes
from tbtrainer.statistics.rows import SnapshotRows
from tbtrainer.statistics.snapshot import Reduction, Snapshot, WholeTensors, take_snapshot
from tbtrainer.statistics.sources import Source
from tbtrainer.statistics.streamed import StreamedTensors
from tbtrainer.statistics.tensor_statistics import TensorStatistics

__all__ = [
    "BUCKET_COUNT",
    "BUCKET_EDGES",
    "LINEAR_BUCKET_COUNT",
    "LINEAR_MAX_ELEMENTS",
    "Differences",
    "PreviousExtremes",
    "Reduction",
    "Snapshot",
    "SnapshotRows",
    "Source",
    "StreamedTensors",
    "TensorCopies",
    "TensorStatistics",
    "WholeTensors",
    "histograms",
    "measure",
    "measure_linear",
    "prepare",
    "take_snapshot",
    "why_not_measurable",
]
