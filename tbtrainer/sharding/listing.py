"""Lists the parameters of a model, in any sharding mode."""

import logging
from collections.abc import Sequence

from torch import Tensor, nn

from tbtrainer.sharding.adapter import RefusedParameter, Row, ShardAdapter
from tbtrainer.sharding.agreement import agree_on_rows
from tbtrainer.sharding.deepspeed import deepspeed_adapters
from tbtrainer.sharding.dtensor import dtensor_adapters
from tbtrainer.sharding.fsdp1 import fsdp1_adapters
from tbtrainer.sharding.parameter_names import clean_names
from tbtrainer.sharding.plain import PlainAdapter
from tbtrainer.sharding.table import ParameterTable

logger = logging.getLogger(__name__)


def parameter_table(model: nn.Module, *, is_world_process_zero: bool) -> ParameterTable:
    """Lists the parameters of a model that can be read.

    With several processes every rank has to call this: the ranks agree on the rows in two small
    collectives. A parameter that some rank cannot read is left out on all ranks, and world rank
    zero logs one warning per reason.

    Args:
        model: The model as it is trained, wrapped and sharded.
        is_world_process_zero: Whether this is world rank zero.

    Returns:
        The table, with the same rows in the same order on every rank. Tied parameters are one row.
    """
    rows: list[Row] = []
    reasons: list[str | None] = []
    error = None
    try:
        rows, reasons = _rows_of(model, is_world_process_zero)
    except Exception as caught:
        error = caught
    agreed = agree_on_rows(rows, reasons, error)
    found = list(zip(rows, agreed, strict=True))
    kept = [row for row, reason in found if reason is None]
    if is_world_process_zero:
        _warn_of_missing(rows, agreed, "")
        _warn_of_missing(kept, [row.adapter.gradient_problem for row in kept], "the gradients of ")
    refused = [
        RefusedParameter(row.name, row.parameter, reason)
        for row, reason in found
        if reason is not None
    ]
    return ParameterTable(kept, is_world_process_zero, refused)


def _rows_of(model: nn.Module, is_world_process_zero: bool) -> tuple[list[Row], list[str | None]]:
    """Returns this rank's rows, and for each row why it cannot be read, or `None`."""
    adapters: list[ShardAdapter] = [
        *deepspeed_adapters(model, is_world_process_zero),
        *dtensor_adapters(model),
        *fsdp1_adapters(model),
        PlainAdapter(is_world_process_zero),
    ]
    rows: list[Row] = []
    reasons: list[str | None] = []
    quantised = _quantised_by_bitsandbytes(model)
    found = list(model.named_parameters())
    names = clean_names(name for name, _ in found)
    for name, (_, parameter) in zip(names, found, strict=True):
        adapter = next(a for a in adapters if a.supports(parameter))
        reason = adapter.unsupported_reason(parameter)
        if id(parameter) in quantised:
            reason = "bitsandbytes keeps them quantised"
        count = adapter.global_count(parameter) if reason is None else None
        rows.append(Row(name, parameter, count, adapter))
        reasons.append(reason)
    return rows, reasons


def _quantised_by_bitsandbytes(model: nn.Module) -> set[int]:
    """Returns the `id` of each weight that bitsandbytes has packed.

    Neither dtype nor type shows it: for FSDP the packed bytes are stored in a floating-point tensor
    (`bnb_4bit_quant_storage`).
    """
    return {
        id(module.weight)
        for module in model.modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt", "LinearFP4", "LinearNF4")
        and isinstance(getattr(module, "weight", None), Tensor)
    }


def _warn_of_missing(rows: Sequence[Row], reasons: Sequence[str | None], what: str) -> None:
    """Logs one warning per reason for the parameters that are left out."""
    names: dict[str, list[str]] = {}
    for row, reason in zip(rows, reasons, strict=True):
        if reason is not None:
            names.setdefault(reason, []).append(row.name)
    for reason, left_out in names.items():
        logger.warning(
            "%s%d of %d parameters are not shown: %s. Among them: %s.",
            what.capitalize(),
            len(left_out),
            len(rows),
            reason,
            ", ".join(left_out[:3]),
        )
