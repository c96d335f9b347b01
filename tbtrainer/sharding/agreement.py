"""How the ranks agree, once, on the rows of the table."""

import hashlib
import logging
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tbtrainer.sharding.adapter import Row

logger = logging.getLogger(__name__)


def agreed_reasons(
    rows: Sequence[Row], reasons: Sequence[str | None], error: Exception | None
) -> list[str | None]:
    """Finds the rows that every rank can serve.

    Two collectives, of a size that depends on the number of rows alone; none for one process.
    Tensors that every rank claims to hold whole are compared: if they differ they are parts of
    something, in a way of sharding that is not known here.

    Args:
        rows: This rank's rows.
        reasons: Why a row is not served, or `None`, one per row.
        error: What kept this rank from listing its rows.

    Returns:
        One reason per row, `None` for the rows that are shown; they are the same on every rank.

    Raises:
        Exception: `error`, if there is only one process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        if error is not None:
            raise error
        return list(reasons)
    device = collective_device()
    problem = _disagreement(rows, error, device)
    if problem is not None:
        if error is not None:
            logger.warning("This rank cannot list its parameters.", exc_info=error)
        return [problem] * len(rows)
    refused = torch.tensor([float(reason is not None) for reason in reasons], dtype=torch.float64)
    samples = torch.stack([_samples(row, device) for row in rows]) if rows else refused
    packed = torch.cat([refused.to(device), samples.flatten(), -samples.flatten()])
    dist.all_reduce(packed, dist.ReduceOp.MAX)
    refusals, greatest, negative_least = packed.cpu().split(
        [len(rows), samples.numel(), samples.numel()]
    )
    differs = (greatest != -negative_least).view(len(rows), 2).any(dim=1)
    return [
        reason
        or ("another rank cannot serve them" if refused_anywhere else None)
        or ("the ranks hold different parts, in a way that is not known here" if differ else None)
        for reason, refused_anywhere, differ in zip(
            reasons, refusals.tolist(), differs.tolist(), strict=True
        )
    ]


def failed_anywhere(failed: bool) -> bool:
    """Says on every rank whether any failed, in one collective of all ranks."""
    mine = torch.tensor([failed], dtype=torch.int64, device=collective_device())
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    return bool(mine.item())


def _disagreement(rows: Sequence[Row], error: Exception | None, device: torch.device) -> str | None:
    """Why no row can be shown, the same on every rank, or `None`."""
    described = repr([(row.name, row.adapter.mode, row.global_count) for row in rows])
    digest = int.from_bytes(hashlib.sha256(described.encode()).digest()[:6], "big")
    mine = torch.tensor([error is not None, digest, -digest], dtype=torch.int64, device=device)
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    failed, greatest, negative_least = mine.tolist()
    if failed:
        return "a rank cannot list its parameters"
    if greatest != -negative_least:
        return "the ranks have different parameters, as under pipeline parallelism"
    return None


def _samples(row: Row, device: torch.device) -> Tensor:
    """Two elements of a tensor that every rank holds whole. float64, shape (2,).

    Must not fail: the other ranks are on their way to a collective.
    """
    try:
        whole = row.adapter.whole(row.parameter)
        if whole is not None and whole.numel() > 0 and whole.device.type != "meta":
            first = whole[(0,) * whole.ndim]
            middle = whole[tuple(size // 2 for size in whole.shape)]
            values = torch.stack([first, middle]).to(device, torch.float64, non_blocking=True)
            return values.nan_to_num()
    except Exception as error:
        logger.debug("%s cannot be compared between ranks: %s", row.name, error)
    return torch.zeros(2, dtype=torch.float64, device=device)


def collective_device() -> torch.device:
    """Where the default group's collectives take their tensors from."""
    # Such as "cpu:gloo,cuda:nccl".
    types = [pair.split(":")[0] for pair in str(dist.get_backend_config()).split(",")]
    if "cpu" in types:
        return torch.device("cpu")
    return torch.device(types[0], torch.get_device_module(types[0]).current_device())
