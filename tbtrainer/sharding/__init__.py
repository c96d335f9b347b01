"""Which part of a tensor is this rank's, and how the parts of all ranks become the whole."""

from tbtrainer.sharding.adapter import NotServed, Row, ShardAdapter
from tbtrainer.sharding.agreement import failed_anywhere
from tbtrainer.sharding.reduction import AllRanks, reduce_sum
from tbtrainer.sharding.table import ParameterTable, breaches, parameter_table

__all__ = [
    "AllRanks",
    "NotServed",
    "ParameterTable",
    "Row",
    "ShardAdapter",
    "breaches",
    "failed_anywhere",
    "parameter_table",
    "reduce_sum",
]
