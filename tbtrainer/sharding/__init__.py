"""Which part of a tensor is this rank's, and how the parts of all ranks become the whole."""

from tbtrainer.sharding.adapter import Row, ShardAdapter, UnsupportedTensor
from tbtrainer.sharding.agreement import failed_anywhere
from tbtrainer.sharding.listing import parameter_table
from tbtrainer.sharding.reduction import (
    count_buffer,
    reduce_counts,
    reduce_extremes,
    reduce_sum,
)
from tbtrainer.sharding.table import ParameterTable, count_mismatches

__all__ = [
    "ParameterTable",
    "Row",
    "ShardAdapter",
    "UnsupportedTensor",
    "count_buffer",
    "count_mismatches",
    "failed_anywhere",
    "parameter_table",
    "reduce_counts",
    "reduce_extremes",
    "reduce_sum",
]
