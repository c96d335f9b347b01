"""Which part of each tensor this rank counts, and the reductions over ranks."""

from tbtrainer.sharding.adapter import Row, ShardAdapter, UnsupportedTensor
from tbtrainer.sharding.listing import parameter_table
from tbtrainer.sharding.reduction import AllRanks, reduce_sum
from tbtrainer.sharding.table import ParameterTable

__all__ = [
    "AllRanks",
    "ParameterTable",
    "Row",
    "ShardAdapter",
    "UnsupportedTensor",
    "parameter_table",
    "reduce_sum",
]
