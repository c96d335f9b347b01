"""Which parameters hold a NaN or an infinity."""

import torch

from tbtrainer.sharding import ParameterTable, reduce_sum
from tbtrainer.sharding.world import true_on_any_rank
from tbtrainer.statistics.norms import TensorNorms


def damaged_weights(
    table: ParameterTable, device: torch.device, is_wanted: bool = True
) -> tuple[str, ...] | None:
    """Returns the names of the parameters that hold a NaN or an infinity, in the model's order.

    It reads every parameter once, and the host waits for the result. Where tensors are sharded it
    is a collective, so every rank has to call it at the same steps, whatever `is_wanted`
    is.

    Args:
        table: The parameters, and which part of each this rank counts.
        device: The device on which the norms are put.
        is_wanted: Whether the parameters are to be read. Where tensors are sharded, they are read
            if it is true on any rank.

    Returns:
        The names; `None` if they are not wanted. Where no tensor is sharded, ranks other than world
        rank zero find none.
    """
    found, error = None, None
    norms = TensorNorms(len(table.rows), device)
    try:
        found = torch.zeros(len(table.rows), dtype=norms.dtype, device=device)
    except Exception as caught:
        error = caught
    if table.needs_reduction:
        is_wanted, has_failed = true_on_any_rank([is_wanted, error is not None])
        if has_failed and error is None:
            error = RuntimeError("another rank has no memory for the norms of the parameters")
    if not is_wanted:
        return None
    if error is not None:
        raise error
    assert found is not None
    try:
        norms.into(found, table.parameters())
    finally:
        # NaN and infinity stay what they are in a sum of norms.
        if table.needs_reduction:
            reduce_sum(found)
    is_finite = found.isfinite().tolist()
    return tuple(row.name for row, fine in zip(table.rows, is_finite, strict=True) if not fine)
