"""Tensors in, numbers out: counts, extremes, sums and histograms, whatever the dtype and device."""

from tbtrainer.statistics.buckets import (
    BUCKET_COUNT,
    BUCKET_EDGES,
    LINEAR_BUCKET_COUNT,
    LINEAR_MAX_ELEMENTS,
)
from tbtrainer.statistics.measure import (
    measure,
    measure_linear,
    why_not_measurable,
)
from tbtrainer.statistics.merge import Histogram, histograms
from tbtrainer.statistics.snapshot import HostSnapshot
from tbtrainer.statistics.tensor_statistics import TensorStatistics

__all__ = [
    "BUCKET_COUNT",
    "BUCKET_EDGES",
    "LINEAR_BUCKET_COUNT",
    "LINEAR_MAX_ELEMENTS",
    "Histogram",
    "HostSnapshot",
    "TensorStatistics",
    "histograms",
    "measure",
    "measure_linear",
    "why_not_measurable",
]
